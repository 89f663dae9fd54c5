-- What became of these letters.
select dead_letter_id, state from public.dead_letters where dead_letter_id = any($1::uuid[])
