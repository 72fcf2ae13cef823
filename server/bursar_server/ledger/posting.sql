-- name: entries_so_far
SELECT session_epoch, n, max(k) AS last_k, sum(amount_nanos)::bigint AS amount_nanos,
       bool_or(kind = 'final') AS final
FROM entries
WHERE organization_id = $1
  AND (session_epoch, n) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[]))
GROUP BY session_epoch, n;
