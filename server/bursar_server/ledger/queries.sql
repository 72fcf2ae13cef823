-- name: key_id
SELECT id FROM keys WHERE organization_id = $1 AND slug = $2;

-- name: entry_page
-- The newest posted first, behind a place in that order.
SELECT session_epoch, n, k, kind, debit_account, credit_account, amount_nanos, currency,
       reserved_nanos, overrun_nanos, draw_set_id, key_id, team_id, project_id, user_id, customer,
       app, run, tags, provider, model, requested_model, price_version, input_llm_tokens,
       cached_input_llm_tokens, cache_write_5m_llm_tokens, cache_write_1h_llm_tokens,
       output_llm_tokens, reasoning_llm_tokens, further_usage, estimate_reason,
       provider_request_id, http_status, stream, admitted_at, finished_at, posted_at,
       service_tier, region, priced_as, rerating_id, price_currency, exchange_rate
FROM entries
WHERE organization_id = $1
  AND ($2::timestamptz IS NULL
       OR (posted_at, session_epoch, n, k)
          < ($2::timestamptz, $3::bigint, $4::bigint, $5::integer))
  AND ($6::timestamptz IS NULL OR posted_at >= $6)
  AND ($7::timestamptz IS NULL OR posted_at < $7)
  AND ($8::bigint IS NULL OR key_id = $8)
  AND ($9::bigint IS NULL OR (session_epoch = $9 AND n = $10))
  AND ($12::bigint IS NULL OR rerating_id = $12)
ORDER BY posted_at DESC, session_epoch DESC, n DESC, k DESC
LIMIT $11;

-- name: spender_names
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

-- name: budgets_of_draw_sets
SELECT s.id, array_agg(DISTINCT 'budgets/' || b.slug) AS budgets
FROM draw_sets AS s
CROSS JOIN LATERAL unnest(s.budget_window_ids) AS drawn (budget_window_id)
JOIN budget_windows AS w
  ON w.organization_id = s.organization_id AND w.id = drawn.budget_window_id
JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
WHERE s.organization_id = $1 AND s.id = ANY($2::bigint[])
GROUP BY s.id;

-- name: session_to_resolve
SELECT s.state, s.last_seen_at,
       least((SELECT coalesce(sum(greatest(a.granted_nanos - a.returned_nanos - a.settled_nanos,
                                           0)), 0)
              FROM allowances AS a
              WHERE a.organization_id = s.organization_id
                AND a.session_epoch = s.session_epoch), 2::numeric ^ 62)::bigint AS held_nanos
FROM sessions AS s
WHERE s.organization_id = $1 AND s.session_epoch = $2;

-- name: insert_resolution
INSERT INTO resolutions (organization_id, session_epoch, decision, reason, actor, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id;

-- name: resolution
SELECT session_epoch, decision, applied_at, refusal, held
FROM resolutions
WHERE organization_id = $1 AND id = $2;

-- name: windows_by_id
SELECT w.id, 'budgets/' || b.slug AS budget, w.start_at
FROM budget_windows AS w
JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
WHERE w.organization_id = $1 AND w.id = ANY($2::bigint[])
ORDER BY b.slug, w.start_at, w.id;
