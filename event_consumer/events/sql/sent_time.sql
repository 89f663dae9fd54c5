-- The time that the client sent, as text: none where the server gave one for want of it, the original where it was corrected.
case
    when "timestamp" = received_at then null
    else coalesce(
        context #>> '{_platform,original_timestamp}',
        replace(to_char("timestamp" at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')
    )
end
