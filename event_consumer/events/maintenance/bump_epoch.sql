-- Writers forget what they know of the rollups.
update public.rollup_epoch set epoch = epoch + 1
