-- The letters that messages say they are replays of, locked in one order.
select dead_letter_id, state, value
from public.dead_letters
where dead_letter_id = any($1::uuid[])
order by dead_letter_id
for update
