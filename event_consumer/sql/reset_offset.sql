-- An operator's decision where to read on, unless the offset was moved meanwhile; the log is taken for a new one. What is passed
-- over counts as consumed and skipped, so that the counters still add up.
update public.consumer_offsets
set next_offset = $5,
    consumed = consumed + $6,
    skipped = skipped + $6,
    cluster_id = null,
    last_mark = null,
    last_record_at = null,
    caught_up_at = null,
    updated_at = now()
where consumer_group = $1 and topic = $2 and partition = $3 and next_offset = $4
returning next_offset
