-- Where one day's rollups are counted anew; empty at the start of each transaction.
create temp table if not exists rebuilt_counts (
    bucket timestamptz not null, tenant_id text not null, event_name text not null, events bigint not null
) on commit delete rows;
create temp table if not exists rebuilt_users (
    tenant_id text not null, user_id text not null, first_at timestamptz not null
) on commit delete rows;
create temp table if not exists rebuilt_first_seen (
    tenant_id text not null, user_id text not null, first_seen_at timestamptz not null
) on commit delete rows
