-- Whether this session may make and drop partitions now; it may until the connection goes back to its pool.
select pg_try_advisory_lock($1)
