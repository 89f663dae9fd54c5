-- Some user was first seen earlier than was known.
insert into public.first_seen_versions as known (slot, version) values ($1, 1)
on conflict (slot) do update set version = known.version + 1
