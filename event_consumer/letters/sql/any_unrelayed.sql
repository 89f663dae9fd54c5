-- Whether some letter is not on the topic yet; those in $1 do not count.
select exists (select from public.dead_letters where relayed_at is null and dead_letter_id <> all($1::uuid[]))
