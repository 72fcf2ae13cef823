-- name: step_settings
-- Whatever the planner believes of the ledger (that it is empty, as it was when a plan was made): a
-- step goes by indexes.
SET LOCAL plan_cache_mode = force_custom_plan;
SET LOCAL enable_seqscan = off;

-- name: reratings_to_post
-- What was accepted and is not posted whole: the oldest first.
SELECT organization_id, id FROM reratings
WHERE state = 'applying'
ORDER BY accepted_at, id;

-- name: lines_to_post
-- The next lines of a re-rating, with what the calls drew on.
SELECT l.place, l.ledger_id, l.session_epoch, l.n, l.amount_nanos, e.currency,
       e.would_refuse_window_ids, t.budget_window_ids
FROM rerating_lines AS l
JOIN entries AS e
  ON e.organization_id = l.ledger_id AND e.session_epoch = l.session_epoch AND e.n = l.n AND e.k = 0
JOIN draw_sets AS t ON t.organization_id = e.organization_id AND t.id = e.draw_set_id
WHERE l.organization_id = $1 AND l.rerating_id = $2
  -- Places are counted as they are posted: what is gone from the list is not walked over again.
  AND l.place > (SELECT posted_count FROM reratings WHERE organization_id = $1 AND id = $2)
ORDER BY l.place
LIMIT $3;

-- name: post_corrections
-- Each is the final posting of its call again, with the next number, the difference, and the price
-- that is right.
INSERT INTO entries (
    organization_id, session_epoch, n, k, kind, debit_account, credit_account, amount_nanos,
    currency, reserved_nanos, draw_set_id, key_id, team_id, project_id, user_id, customer, app, run,
    tags, provider, model, requested_model, price_version, input_llm_tokens,
    cached_input_llm_tokens, cache_write_5m_llm_tokens, cache_write_1h_llm_tokens,
    output_llm_tokens, reasoning_llm_tokens, further_usage, estimate_reason, provider_request_id,
    http_status, stream, admitted_at, finished_at, overrun_nanos, would_refuse_window_ids,
    posted_at, service_tier, region, priced_as, rerating_id, price_currency, exchange_rate
)
SELECT e.organization_id, e.session_epoch, e.n, s.last_k + 1, 'correction', e.debit_account,
       e.credit_account, l.amount_nanos, e.currency, e.reserved_nanos, e.draw_set_id, e.key_id,
       e.team_id, e.project_id, e.user_id, e.customer, e.app, e.run, e.tags, e.provider, e.model,
       e.requested_model, l.price_version, e.input_llm_tokens, e.cached_input_llm_tokens,
       e.cache_write_5m_llm_tokens, e.cache_write_1h_llm_tokens, e.output_llm_tokens,
       e.reasoning_llm_tokens, e.further_usage, e.estimate_reason, e.provider_request_id,
       e.http_status, e.stream, e.admitted_at, e.finished_at, o.overrun_nanos,
       e.would_refuse_window_ids, $5, e.service_tier, e.region, l.priced_as, l.rerating_id,
       e.price_currency, e.exchange_rate
FROM unnest($3::bigint[], $4::bigint[]) AS o (place, overrun_nanos)
JOIN rerating_lines AS l
  ON l.organization_id = $1 AND l.rerating_id = $2 AND l.place = o.place
 -- Of the many that are still to come, these alone are read.
 AND l.place BETWEEN $6 AND $7
CROSS JOIN LATERAL (
    SELECT max(k) AS last_k, min(k) FILTER (WHERE kind = 'final') AS final_k
    FROM entries
    WHERE organization_id = l.ledger_id AND session_epoch = l.session_epoch AND n = l.n
) AS s
JOIN entries AS e
  ON e.organization_id = l.ledger_id AND e.session_epoch = l.session_epoch AND e.n = l.n
 AND e.k = s.final_k
RETURNING 1;

-- name: drop_lines
DELETE FROM rerating_lines WHERE organization_id = $1 AND rerating_id = $2 AND place <= $3;

-- name: note_posted
UPDATE reratings
SET posted_count = posted_count + $3,
    state = CASE WHEN $4::boolean THEN 'applied' ELSE state END,
    applied_at = CASE WHEN $4::boolean THEN $5::timestamptz ELSE applied_at END
WHERE organization_id = $1 AND id = $2;
