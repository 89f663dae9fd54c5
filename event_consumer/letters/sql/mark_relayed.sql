-- These letters are on the topic.
update public.dead_letters set relayed_at = now() where dead_letter_id = any($1::uuid[])
