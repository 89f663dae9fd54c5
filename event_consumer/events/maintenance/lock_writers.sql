-- Writers wait from here on, before they choose a partition; readers go on.
lock table only public.events in share row exclusive mode
