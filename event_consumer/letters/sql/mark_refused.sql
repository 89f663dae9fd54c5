-- The door refused this letter's event again: what is wrong now, and with which value.
update public.dead_letters
set state = 'open', state_at = clock_timestamp(), retry_count = retry_count + 1, failed_at = clock_timestamp(),
    relayed_at = null, reason = $2, error = $3, value = $4, note = coalesce($5, note)
where dead_letter_id = $1
