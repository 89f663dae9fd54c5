-- Gives letters up. One that is being sent is waited for.
with chosen as (
    select dead_letter_id
    from public.dead_letters
    where dead_letter_id = any($1::uuid[]) and state in ('open', 'replayed') and state_at < $2
    order by dead_letter_id
    for update
)
update public.dead_letters as letter
set state = 'discarded', state_at = clock_timestamp(), note = $3
from chosen
where letter.dead_letter_id = chosen.dead_letter_id
returning letter.dead_letter_id
