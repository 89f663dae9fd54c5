-- Dropping a partition changes what the default may take, so all wait from here on.
lock table only public.events in access exclusive mode
