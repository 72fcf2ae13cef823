-- name: spend
-- The braces take fixed fragments of the store, never input. An entry is a call if it is its
-- first posting and was not released; adjustments add amounts only, and so does what was lost: which
-- calls it was is not known. What was consumed is told by
-- the final posting, or by the provisional one while no other followed.
WITH selected AS (
    SELECT {values}
           e.amount_nanos, e.k = 0 AND e.kind NOT IN ('released', 'lost') AS is_call,
           e.estimate_reason <> '' OR e.kind = 'provisional' AS is_estimated,
           e.kind = 'final' OR (e.kind = 'provisional' AND e.k = 0 AND NOT EXISTS (
               SELECT FROM entries AS later
               WHERE later.organization_id = e.organization_id
                 AND later.session_epoch = e.session_epoch AND later.n = e.n AND later.k > 0
           )) AS is_told,
           e.input_llm_tokens,
           e.cached_input_llm_tokens + e.cache_write_5m_llm_tokens + e.cache_write_1h_llm_tokens
               AS cache_llm_tokens,
           e.output_llm_tokens
    FROM entries AS e
    {tags}
    WHERE e.organization_id = $1
      AND ($2::timestamptz IS NULL OR e.admitted_at >= $2)
      AND ($3::timestamptz IS NULL OR e.admitted_at < $3)
      AND $4::text IS NOT NULL
)
SELECT {names}
       least(coalesce(sum(amount_nanos), 0), 9223372036854775807)::bigint AS cost_nanos,
       count(*) FILTER (WHERE is_call) AS call_count,
       coalesce(sum(input_llm_tokens) FILTER (WHERE is_told), 0)::bigint AS input_llm_tokens,
       coalesce(sum(cache_llm_tokens) FILTER (WHERE is_told), 0)::bigint AS cache_llm_tokens,
       coalesce(sum(output_llm_tokens) FILTER (WHERE is_told), 0)::bigint AS output_llm_tokens,
       count(*) FILTER (WHERE is_told AND is_estimated) AS estimated_call_count
FROM selected
{grouping}
LIMIT $5;

-- name: names_of_spenders
SELECT id, 'teams/' || slug AS name FROM teams
WHERE organization_id = $1 AND id = ANY($2::bigint[])
UNION ALL
SELECT id, 'projects/' || slug FROM projects
WHERE organization_id = $1 AND id = ANY($2::bigint[])
UNION ALL
SELECT id, 'users/' || slug FROM users
WHERE organization_id = $1 AND id = ANY($2::bigint[])
UNION ALL
SELECT id, 'keys/' || slug FROM keys
WHERE id = ANY($2::bigint[]);
