-- The events of this day have changed.
insert into public.day_versions as known (day, slot, version) values ($1::text::date, 0, 1)
on conflict (day, slot) do update set version = known.version + 1
