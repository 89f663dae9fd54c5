-- All of one letter.
select *, octet_length(value) as bytes from public.dead_letters where dead_letter_id = $1
