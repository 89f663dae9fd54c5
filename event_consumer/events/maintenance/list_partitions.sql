-- The partitions of events but the default, oldest first, with the times they take: from lower to before upper.
select quote_ident(relname) as name,
       coalesce((bounds[1])::timestamptz, timestamptz '0001-01-01 00:00+00') as lower,
       coalesce((bounds[2])::timestamptz, timestamptz '9999-12-31 00:00+00') as upper
from (
    select part.relname,
           regexp_match(pg_get_expr(part.relpartbound, part.oid), 'FROM \((?:''(.+?)''|.*?)\) TO \((?:''(.+?)''|.*?)\)') as bounds
    from pg_inherits
    join pg_class as part on part.oid = inhrelid
    where inhparent = 'public.events'::regclass and pg_get_expr(part.relpartbound, part.oid) <> 'DEFAULT'
) as parts
order by lower
