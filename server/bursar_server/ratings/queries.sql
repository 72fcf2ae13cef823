-- name: reading_settings
-- Whatever the planner believes of the ledger: a page goes by indexes.
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL enable_seqscan = off;

-- name: lock_organization
-- One re-rating of an organization is computed for posting at a time; the first number is this
-- purpose's own. The second has half the bits of an id: two organizations that share it wait.
SELECT pg_try_advisory_xact_lock(4207003, ($1::bigint % 2147483647)::integer);

-- name: call_page
-- Calls of an organization in one ledger (its own, or the platform's), by admission, behind a place:
-- what was posted of each, by the facts of its final posting. A call without one is open.
WITH page AS (
    SELECT session_epoch, n, admitted_at
    FROM entries
    WHERE organization_id = $1 AND k = 0 AND n > 0 AND kind <> 'released'
      AND ($2::text = '' OR debit_account = $2)
      AND admitted_at >= $3 AND admitted_at < $4
      AND (admitted_at, session_epoch, n) > ($3, $5::bigint, $6::bigint)
    ORDER BY admitted_at, session_epoch, n
    LIMIT $7
)
SELECT $1::bigint AS ledger_id, p.session_epoch, p.n, p.admitted_at, s.amount_nanos,
       s.is_corrected, f.k IS NOT NULL AS is_final, e.draw_set_id, e.currency, e.provider, e.model,
       coalesce(s.corrected_version, e.price_version) AS price_version,
       e.priced_as, e.service_tier, e.region, e.price_currency, e.exchange_rate,
       e.input_llm_tokens, e.cached_input_llm_tokens, e.cache_write_5m_llm_tokens,
       e.cache_write_1h_llm_tokens, e.output_llm_tokens, e.reasoning_llm_tokens, e.further_usage,
       e.estimate_reason, e.http_status,
       $8::text = '' OR e.model ~ $8 OR e.provider || '/' || e.model ~ $8 OR e.priced_as ~ $8
           AS is_chosen
FROM page AS p
CROSS JOIN LATERAL (
    SELECT sum(amount_nanos)::bigint AS amount_nanos, bool_or(kind = 'correction') AS is_corrected,
           (array_agg(price_version ORDER BY k DESC) FILTER (WHERE kind = 'correction'))[1]
               AS corrected_version
    FROM entries
    WHERE organization_id = $1 AND session_epoch = p.session_epoch AND n = p.n
) AS s
LEFT JOIN LATERAL (
    SELECT k FROM entries
    WHERE organization_id = $1 AND session_epoch = p.session_epoch AND n = p.n AND kind = 'final'
    ORDER BY k LIMIT 1
) AS f ON true
JOIN entries AS e
  ON e.organization_id = $1 AND e.session_epoch = p.session_epoch AND e.n = p.n
 AND e.k = coalesce(f.k, 0)
ORDER BY p.admitted_at, p.session_epoch, p.n;

-- name: budgets_of_draw_sets
SELECT s.id, array_agg(DISTINCT 'budgets/' || b.slug) AS budgets
FROM draw_sets AS s
CROSS JOIN LATERAL unnest(s.budget_window_ids) AS drawn (budget_window_id)
JOIN budget_windows AS w
  ON w.organization_id = s.organization_id AND w.id = drawn.budget_window_id
JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
WHERE s.organization_id = $1 AND s.id = ANY($2::bigint[])
GROUP BY s.id;

-- name: insert_rerating
INSERT INTO reratings (
    organization_id, since_at, until_at, model, reason, actor, etag, outcome, created_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id;

-- name: rerating
SELECT id, state, since_at, until_at, model, reason, actor, etag, outcome::text AS outcome,
       created_at, accepted_at, accepted_by, posted_count, applied_at
FROM reratings WHERE organization_id = $1 AND id = $2;

-- name: rerating_page
SELECT id, state, since_at, until_at, model, reason, actor, etag, outcome::text AS outcome,
       created_at, accepted_at, accepted_by, posted_count, applied_at
FROM reratings
WHERE organization_id = $1 AND ($2::bigint = 0 OR id < $2)
ORDER BY id DESC
LIMIT $3;

-- name: is_applying
SELECT EXISTS (SELECT FROM reratings WHERE organization_id = $1 AND state = 'applying');

-- name: accept
UPDATE reratings
SET state = CASE WHEN $3::boolean THEN 'applying' ELSE 'applied' END, accepted_at = $4::timestamptz, accepted_by = $5,
    applied_at = CASE WHEN $3 THEN NULL ELSE $4::timestamptz END
WHERE organization_id = $1 AND id = $2 AND state = 'planned'
RETURNING id;
