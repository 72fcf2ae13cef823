-- name: entries_so_far
-- For each call by the primary key, whatever the planner believes of the table: a plan made while
-- it was empty is kept until the next ANALYZE, and a join would read all of it in each step. Of an
-- empty table all indexes look alike; the order is what makes it the primary key's.
SELECT asked.session_epoch, asked.n, e.last_k, e.amount_nanos, e.final, e.would_refuse_window_ids,
       t.budget_window_ids, t.armed_window_ids
FROM unnest($2::bigint[], $3::bigint[]) AS asked (session_epoch, n)
CROSS JOIN LATERAL (
    -- What sidecars said, without corrections of it.
    SELECT max(k) AS last_k,
           sum(amount_nanos) FILTER (WHERE kind <> 'correction')::bigint AS amount_nanos,
           bool_or(kind = 'final') AS final,
           max(would_refuse_window_ids) AS would_refuse_window_ids,
           min(draw_set_id) AS draw_set_id
    FROM (
        SELECT k, kind, amount_nanos, would_refuse_window_ids, draw_set_id FROM entries
        WHERE organization_id = $1 AND session_epoch = asked.session_epoch AND n = asked.n
        ORDER BY k
    ) AS posted
) AS e
CROSS JOIN LATERAL (
    SELECT budget_window_ids, armed_window_ids FROM draw_sets
    WHERE organization_id = $1 AND id = e.draw_set_id
    LIMIT 1
) AS t;

-- name: spent_before
-- What a budget would have counted since $2, had it been there. A model is chosen under each of
-- the names a call can have.
-- Beyond what a balance counts up to, more changes nothing.
SELECT least(coalesce(sum(amount_nanos), 0), 2::numeric ^ 62)::bigint AS amount_nanos,
       count(*) AS entry_count
FROM entries
WHERE organization_id = $1 AND (admitted_at >= $2 OR posted_at >= $7::timestamptz)
  AND ($3::text <> 'team' OR team_id = $4)
  AND ($3::text <> 'project' OR project_id = $4)
  AND ($3::text <> 'user' OR user_id = $4)
  AND ($3::text <> 'key' OR key_id = $4)
  AND ($5::text = '' OR model ~ $5 OR requested_model ~ $5 OR provider || '/' || model ~ $5)
  AND (cardinality($6::text[]) = 0 OR provider = ANY($6::text[]));

-- name: spent_by_all_before
-- The same for a budget of the platform. What its own ledger holds is there a second time: each
-- call is posted for the organization that made it, and for the platform where it has budgets.
SELECT least(coalesce(sum(e.amount_nanos), 0), 2::numeric ^ 62)::bigint AS amount_nanos,
       count(*) AS entry_count
FROM organizations AS p
JOIN organizations AS o ON o.id <> p.id AND o.currency = p.currency
JOIN entries AS e ON e.organization_id = o.id AND e.admitted_at >= $2 AND e.currency = p.currency
WHERE p.id = $1
  AND ($3::text = '' OR e.model ~ $3 OR e.requested_model ~ $3
       OR e.provider || '/' || e.model ~ $3)
  AND (cardinality($4::text[]) = 0 OR e.provider = ANY($4::text[]));
