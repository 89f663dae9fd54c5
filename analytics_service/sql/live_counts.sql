-- How much was ever stored, of all and of each of these tenants, and how fresh that is.
select tenant_id, stored, watermark, asked_at from analytics.live_counts($1)
