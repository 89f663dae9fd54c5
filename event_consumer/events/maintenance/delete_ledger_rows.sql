-- Of one stretch of the ledger: ids stored before $3 whose event's time is before $4.
delete from public.event_ids where ctid >= $1::tid and ctid < $2::tid and ingested_on < $3 and event_time < $4
