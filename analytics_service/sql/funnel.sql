-- Users by the furthest of the steps $3, entered in [$1, $2), within $4 in all or, with $5, within $4 of the step before; filters $6.
select step, event_name, users, still_open from analytics.funnel($1, $2, $3, $4, $5, $6::text::jsonb)
