-- The door took this letter's event.
update public.dead_letters
set state = 'resolved', state_at = clock_timestamp(), retry_count = retry_count + 1, note = coalesce($2, note)
where dead_letter_id = $1
