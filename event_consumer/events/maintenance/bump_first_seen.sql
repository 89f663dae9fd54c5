-- Some user was first seen at an earlier time than was known.
insert into public.first_seen_versions as known (slot, version) values (0, 1)
on conflict (slot) do update set version = known.version + 1
