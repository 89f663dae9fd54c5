-- An experiment's variants with their users, conversions and windows that are not over; without a variant: the users left out.
select variant, users, conversions, still_open
from analytics.experiment($1, $2, $3, $4, $5::interval, $6::text::jsonb)
