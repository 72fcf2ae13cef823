-- name: insert_entries
-- Arrays of arrays do not travel, so tags come as array literals.
INSERT INTO entries (
    organization_id, session_epoch, n, k, kind, debit_account, credit_account, amount_nanos,
    currency, reserved_nanos, draw_set_id, key_id, team_id, project_id, user_id, customer, app,
    run, tags, provider, model, requested_model, price_version, input_llm_tokens,
    cached_input_llm_tokens, cache_write_5m_llm_tokens, cache_write_1h_llm_tokens,
    output_llm_tokens, reasoning_llm_tokens, further_usage, estimate_reason,
    provider_request_id, http_status, stream, admitted_at, finished_at, overrun_nanos, posted_at
)
SELECT
    e.organization_id, e.session_epoch, e.n, e.k, e.kind, e.debit_account, e.credit_account,
    e.amount_nanos, e.currency, e.reserved_nanos, e.draw_set_id, e.key_id, e.team_id,
    e.project_id, e.user_id, e.customer, e.app, e.run, e.tags::text[], e.provider, e.model,
    e.requested_model, e.price_version, e.input_llm_tokens, e.cached_input_llm_tokens,
    e.cache_write_5m_llm_tokens, e.cache_write_1h_llm_tokens, e.output_llm_tokens,
    e.reasoning_llm_tokens, e.further_usage::jsonb, e.estimate_reason, e.provider_request_id,
    e.http_status, e.stream, e.admitted_at, e.finished_at, e.overrun_nanos, $38
FROM unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
    $14::bigint[], $15::bigint[], $16::text[], $17::text[], $18::text[], $19::text[],
    $20::text[], $21::text[], $22::text[], $23::text[], $24::bigint[], $25::bigint[],
    $26::bigint[], $27::bigint[], $28::bigint[], $29::bigint[], $30::text[], $31::text[],
    $32::text[], $33::smallint[], $34::boolean[], $35::timestamptz[], $36::timestamptz[],
    $37::bigint[]
) AS e (
    organization_id, session_epoch, n, k, kind, debit_account, credit_account, amount_nanos,
    currency, reserved_nanos, draw_set_id, key_id, team_id, project_id, user_id, customer, app,
    run, tags, provider, model, requested_model, price_version, input_llm_tokens,
    cached_input_llm_tokens, cache_write_5m_llm_tokens, cache_write_1h_llm_tokens,
    output_llm_tokens, reasoning_llm_tokens, further_usage, estimate_reason,
    provider_request_id, http_status, stream, admitted_at, finished_at, overrun_nanos
)
ON CONFLICT (organization_id, session_epoch, n, k) DO NOTHING
RETURNING session_epoch, n, k;

-- name: entries_so_far
SELECT session_epoch, n, max(k) AS last_k, sum(amount_nanos)::bigint AS amount_nanos,
       bool_or(kind = 'final') AS final
FROM entries
WHERE organization_id = $1
  AND (session_epoch, n) IN (SELECT * FROM unnest($2::bigint[], $3::bigint[]))
GROUP BY session_epoch, n;
