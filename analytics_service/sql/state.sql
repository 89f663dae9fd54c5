-- How fresh the answers about [$1, $2) are, and the version under which they are cached.
select analytics.version_of($1, $2) as version, watermark, asked_at from analytics.freshness
