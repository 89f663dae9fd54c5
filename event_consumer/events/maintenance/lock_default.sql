-- Those who read the default partition wait from here on: attaching needs this lock, and it is better had before the work.
lock table public.events_default in access exclusive mode
