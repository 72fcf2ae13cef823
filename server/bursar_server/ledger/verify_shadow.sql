-- What shadow budgets count: against the sums of entries, in the form of verify.sql, and of entries by
-- themselves, in the form of verify_entries.sql.

-- name: check_would_refuse_equals_entries
-- What was let through fitted, call by call, into what was left of a limit: in sum it exceeds the
-- highest limit by no more than what charges exceeded their reservations, or were found to cost
-- later. What the window had seen before its budget was made stands apart: nobody judged it.
WITH drawn AS (
    SELECT s.organization_id, w.id AS budget_window_id, s.amount_nanos, s.first_count,
           s.beyond_nanos,
           coalesce(w.id = ANY(s.would_refuse_window_ids), false) AS is_refused
    FROM entry_sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    JOIN budget_windows AS w
      ON w.organization_id = s.organization_id AND w.id = ANY(t.budget_window_ids) AND w.shadow
),
sums AS (
    SELECT organization_id, budget_window_id,
           coalesce(sum(first_count) FILTER (WHERE is_refused), 0) AS refused_count,
           coalesce(sum(amount_nanos) FILTER (WHERE is_refused), 0) AS refused_nanos,
           coalesce(sum(amount_nanos) FILTER (WHERE NOT is_refused), 0) AS through_nanos,
           coalesce(sum(beyond_nanos) FILTER (WHERE NOT is_refused), 0) AS beyond_nanos
    FROM drawn
    GROUP BY organization_id, budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.would_refuse_count <> coalesce(s.refused_count, 0)
          OR w.would_refuse_nanos <> coalesce(s.refused_nanos, 0)
        THEN format('%s window %s from %s: would have refused %s calls of %s nanos, its entries'
                    ' say %s of %s',
                    o.slug, w.id, w.start_at, w.would_refuse_count, w.would_refuse_nanos,
                    coalesce(s.refused_count, 0), coalesce(s.refused_nanos, 0))
        WHEN s.through_nanos > 0 AND coalesce(l.amount_nanos, 0) + s.through_nanos
           > greatest(v.limit_nanos, l.amount_nanos) + s.beyond_nanos
        THEN format('%s window %s from %s: let %s nanos through after %s, its limit was never above'
                    ' %s', o.slug, w.id, w.start_at, s.through_nanos, coalesce(l.amount_nanos, 0),
                    v.limit_nanos)
    END AS difference, w.organization_id, w.id AS budget_window_id,
    coalesce(s.refused_nanos, 0) - w.would_refuse_nanos AS off_nanos
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN sums AS s
      ON s.organization_id = w.organization_id AND s.budget_window_id = w.id
    LEFT JOIN opening_lines AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    LEFT JOIN LATERAL (
        SELECT max(b.limit_nanos) + coalesce((
            SELECT sum(r.amount_nanos) FROM budget_raises AS r
            WHERE r.organization_id = w.organization_id AND r.budget_id = w.budget_id
        ), 0) AS limit_nanos
        FROM budget_versions AS b
        WHERE b.organization_id = w.organization_id AND b.budget_id = w.budget_id
    ) AS v ON true
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_refusals_are_of_shadows
-- A call could only have been refused by a shadow window that it draws on.
SELECT count(*) AS checked_count,
       jsonb_agg(jsonb_build_array(session_epoch, n, k, fault)) FILTER (WHERE fault IS NOT NULL)
           AS faults
FROM (
    SELECT e.session_epoch, e.n, e.k, CASE
        WHEN w.shadow IS NOT TRUE OR (r.budget_window_id = ANY(t.budget_window_ids)) IS NOT TRUE
        THEN format('says that window %s would have refused it, which it can not',
                    r.budget_window_id)
    END AS fault
    FROM entries AS e
    CROSS JOIN LATERAL unnest(e.would_refuse_window_ids) AS r (budget_window_id)
    LEFT JOIN draw_sets AS t ON t.organization_id = e.organization_id AND t.id = e.draw_set_id
    LEFT JOIN budget_windows AS w
      ON w.organization_id = e.organization_id AND w.id = r.budget_window_id
    WHERE e.organization_id = $1 AND e.session_epoch BETWEEN $2 AND $4
      AND (e.session_epoch, e.n) > ($2, $3) AND (e.session_epoch, e.n) <= ($4, $5)
) AS compared;
