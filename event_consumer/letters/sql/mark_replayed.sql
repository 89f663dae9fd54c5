-- These letters were sent again.
update public.dead_letters
set state = 'replayed', state_at = clock_timestamp(), retry_count = retry_count + 1, note = coalesce($2, note)
where dead_letter_id = any($1::uuid[])
