-- Replayed letters whose event is stored now.
with settled as (
    select dead_letter_id
    from public.dead_letters
    where dead_letter_id = any($1::uuid[]) and state <> 'resolved'
    order by dead_letter_id
    for update
)
update public.dead_letters as letter
set state = 'resolved', state_at = now()
from settled
where letter.dead_letter_id = settled.dead_letter_id
