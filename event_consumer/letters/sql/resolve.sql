-- Replayed letters whose event is stored now. A letter of another event is left alone: anybody who may write to the topic can name
-- one; only after a conflict the repair may be a new id.
with settled as (
    select letter.dead_letter_id
    from public.dead_letters as letter
    join unnest($1::uuid[], $2::uuid[]) as stored (dead_letter_id, event_id) using (dead_letter_id)
    where letter.state <> 'resolved'
      and (letter.event_id is null or letter.event_id = stored.event_id or letter.reason = 'conflict')
    order by letter.dead_letter_id
    for update of letter
)
update public.dead_letters as letter
set state = 'resolved', state_at = now()
from settled
where letter.dead_letter_id = settled.dead_letter_id
