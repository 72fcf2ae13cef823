-- The checks of balances: what is kept beside the entries, against the sums of the entries in
-- `entry_sums` (see verify_entries.sql), all in one snapshot. $1 is an organization's id; null: every
-- organization. Each answers one row: how many it looked at, how many of them are wrong, and the
-- first $2 of those as JSON objects: `difference` in words and, where they lead to its entries,
-- organization_id, session_epoch, budget_window_id, and off_nanos (entries less balance).

-- name: check_settled_equals_entries
WITH sums AS (
    SELECT organization_id, draw_set_id, sum(amount_nanos) AS amount_nanos
    FROM entry_sums
    GROUP BY organization_id, draw_set_id
),
drawn AS (
    SELECT s.organization_id, d.budget_window_id, sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY s.organization_id, d.budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.settled_nanos <> coalesce(d.amount_nanos, 0) + coalesce(l.amount_nanos, 0)
        THEN format('%s budgets/%s window %s from %s: settled %s nanos, its entries %s nanos,'
                    ' its opening line %s nanos',
                    o.slug, b.slug, w.id, w.start_at, w.settled_nanos,
                    coalesce(d.amount_nanos, 0), coalesce(l.amount_nanos, 0))
    END AS difference, w.organization_id, w.id AS budget_window_id,
    coalesce(d.amount_nanos, 0) + coalesce(l.amount_nanos, 0) - w.settled_nanos AS off_nanos
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    JOIN budgets AS b ON b.organization_id = w.organization_id AND b.id = w.budget_id
    LEFT JOIN drawn AS d
      ON d.organization_id = w.organization_id AND d.budget_window_id = w.id
    LEFT JOIN opening_lines AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_allowances_equal_entries
WITH sums AS (
    SELECT organization_id, session_epoch, draw_set_id, sum(first_nanos) AS amount_nanos
    FROM entry_sums
    GROUP BY organization_id, session_epoch, draw_set_id
),
drawn AS (
    SELECT s.organization_id, s.session_epoch, w.id AS budget_window_id,
           sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    JOIN budget_windows AS w
      ON w.organization_id = s.organization_id AND w.id = d.budget_window_id AND w.hard
    -- Nothing was lent for a call in a window that was armed while it was under way.
    WHERE d.budget_window_id <> ALL(t.armed_window_ids)
    GROUP BY s.organization_id, s.session_epoch, w.id
),
held AS (
    SELECT a.organization_id, a.session_epoch, a.budget_window_id, a.settled_nanos
    FROM allowances AS a
    WHERE $1::bigint IS NULL OR a.organization_id = $1
),
compared AS (
    SELECT CASE WHEN coalesce(h.settled_nanos, 0) <> coalesce(d.amount_nanos, 0) THEN
        format('organization %s session %s window %s: its allowance settled %s nanos,'
               ' its entries %s nanos',
               coalesce(h.organization_id, d.organization_id),
               coalesce(h.session_epoch, d.session_epoch),
               coalesce(h.budget_window_id, d.budget_window_id),
               coalesce(h.settled_nanos, 0), coalesce(d.amount_nanos, 0))
    END AS difference, coalesce(h.organization_id, d.organization_id) AS organization_id,
    coalesce(h.session_epoch, d.session_epoch) AS session_epoch,
    coalesce(h.budget_window_id, d.budget_window_id) AS budget_window_id,
    coalesce(d.amount_nanos, 0) - coalesce(h.settled_nanos, 0) AS off_nanos
    FROM held AS h
    FULL JOIN drawn AS d
      ON d.organization_id = h.organization_id AND d.session_epoch = h.session_epoch
     AND d.budget_window_id = h.budget_window_id
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_outstanding_equals_allowances
WITH held AS (
    SELECT organization_id, budget_window_id,
           sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0) - in_doubt_nanos)
               AS outstanding_nanos,
           sum(in_doubt_nanos) AS in_doubt_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.outstanding_nanos <> coalesce(h.outstanding_nanos, 0)
          OR w.in_doubt_nanos <> coalesce(h.in_doubt_nanos, 0)
        THEN format('%s window %s from %s: outstanding %s and in doubt %s nanos,'
                    ' its allowances hold %s and %s nanos',
                    o.slug, w.id, w.start_at, w.outstanding_nanos, w.in_doubt_nanos,
                    coalesce(h.outstanding_nanos, 0), coalesce(h.in_doubt_nanos, 0))
        WHEN NOT w.hard AND w.outstanding_nanos + w.in_doubt_nanos <> 0
        THEN format('%s window %s from %s: it is not hard and lends %s nanos', o.slug, w.id,
                    w.start_at, w.outstanding_nanos + w.in_doubt_nanos)
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN held AS h
      ON h.organization_id = w.organization_id AND h.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_overrun_equals_allowances
-- A later difference of a charge moves what is settled, not what was lent: if it adds, all of it
-- is overrun.
WITH beyond AS (
    SELECT organization_id, budget_window_id,
           sum(greatest(settled_nanos - (granted_nanos - returned_nanos), 0)) AS overrun_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, budget_window_id
),
adjusted AS (
    SELECT organization_id, draw_set_id, sum(added_nanos) AS amount_nanos
    FROM entry_sums
    WHERE added_nanos > 0
    GROUP BY organization_id, draw_set_id
),
later AS (
    SELECT a.organization_id, d.budget_window_id, sum(a.amount_nanos) AS overrun_nanos
    FROM adjusted AS a
    JOIN draw_sets AS t ON t.organization_id = a.organization_id AND t.id = a.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY a.organization_id, d.budget_window_id
),
-- What a call that was under way as a budget was armed cost at first: no allowance was its.
armed AS (
    SELECT s.organization_id, d.budget_window_id, sum(s.first_nanos) AS overrun_nanos
    FROM entry_sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.armed_window_ids) AS d (budget_window_id)
    GROUP BY s.organization_id, d.budget_window_id
),
compared AS (
    SELECT CASE
        WHEN w.overrun_nanos
          <> CASE WHEN w.hard
                  THEN coalesce(b.overrun_nanos, 0) + coalesce(l.overrun_nanos, 0)
                     + coalesce(a.overrun_nanos, 0)
                  ELSE 0 END
        THEN format('%s window %s from %s: overrun %s nanos, beyond its allowances %s, later %s'
                    ' nanos',
                    o.slug, w.id, w.start_at, w.overrun_nanos, coalesce(b.overrun_nanos, 0),
                    coalesce(l.overrun_nanos, 0))
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    LEFT JOIN beyond AS b
      ON b.organization_id = w.organization_id AND b.budget_window_id = w.id
    LEFT JOIN later AS l
      ON l.organization_id = w.organization_id AND l.budget_window_id = w.id
    LEFT JOIN armed AS a
      ON a.organization_id = w.organization_id AND a.budget_window_id = w.id
    WHERE $1::bigint IS NULL OR w.organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_within_ceiling
WITH compared AS (
    SELECT CASE
        WHEN w.settled_nanos - w.overrun_nanos + w.outstanding_nanos + w.in_doubt_nanos
           > w.ceiling_nanos
        THEN format('%s window %s from %s: settled %s - overrun %s + outstanding %s + in doubt %s'
                    ' nanos exceed the ceiling %s',
                    o.slug, w.id, w.start_at, w.settled_nanos, w.overrun_nanos,
                    w.outstanding_nanos, w.in_doubt_nanos, w.ceiling_nanos)
        WHEN w.ceiling_nanos < w.limit_nanos
        THEN format('%s window %s from %s: ceiling %s nanos below the limit %s', o.slug, w.id,
                    w.start_at, w.ceiling_nanos, w.limit_nanos)
    END AS difference
    FROM budget_windows AS w
    JOIN organizations AS o ON o.id = w.organization_id
    WHERE w.hard AND ($1::bigint IS NULL OR w.organization_id = $1)
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_sessions_count_their_entries
WITH counted AS (
    SELECT organization_id, session_epoch, sum(first_count) AS n_count,
           max(highest_n) AS highest_n, sum(lost_count) AS lost_count, max(last_lost) AS last_lost
    FROM entry_sums
    GROUP BY organization_id, session_epoch
),
held AS (
    SELECT organization_id, session_epoch,
           sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0)) AS held_nanos
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
    GROUP BY organization_id, session_epoch
),
known AS (
    SELECT organization_id, session_epoch, state, settled_count, highest_settled_n, last_n,
           lost_count
    FROM sessions
    WHERE $1::bigint IS NULL OR organization_id = $1
),
compared AS (
    SELECT CASE
        WHEN s.session_epoch IS NULL
        THEN format('organization %s session %s: %s numbers are posted, there is no session',
                    c.organization_id, c.session_epoch, c.n_count)
        WHEN s.settled_count <> coalesce(c.n_count, 0)
          OR s.highest_settled_n <> coalesce(c.highest_n, 0)
        THEN format('organization %s session %s: counts %s up to %s, its entries %s up to %s',
                    s.organization_id, s.session_epoch, s.settled_count, s.highest_settled_n,
                    coalesce(c.n_count, 0), coalesce(c.highest_n, 0))
        WHEN s.lost_count <> coalesce(c.lost_count, 0)
          OR s.lost_count > 0 AND s.lost_count <> c.last_lost
        THEN format('organization %s session %s: counts %s entries of what it lost, there are %s'
                    ' up to %s',
                    s.organization_id, s.session_epoch, s.lost_count, coalesce(c.lost_count, 0),
                    coalesce(c.last_lost, 0))
        WHEN s.state = 'closed' AND s.settled_count IS DISTINCT FROM s.last_n
        THEN format('organization %s session %s: closed with %s of %s settled', s.organization_id,
                    s.session_epoch, s.settled_count, s.last_n)
        WHEN s.state = 'closed' AND coalesce(h.held_nanos, 0) <> 0
        THEN format('organization %s session %s: closed, and holds %s nanos', s.organization_id,
                    s.session_epoch, h.held_nanos)
    END AS difference, coalesce(s.organization_id, c.organization_id) AS organization_id,
    coalesce(s.session_epoch, c.session_epoch) AS session_epoch
    FROM known AS s
    FULL JOIN counted AS c
      ON c.organization_id = s.organization_id AND c.session_epoch = s.session_epoch
    LEFT JOIN held AS h
      ON h.organization_id = s.organization_id AND h.session_epoch = s.session_epoch
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_lost_equals_entries
WITH sums AS (
    SELECT organization_id, session_epoch, draw_set_id, sum(lost_nanos) AS amount_nanos
    FROM entry_sums
    WHERE lost_nanos <> 0
    GROUP BY organization_id, session_epoch, draw_set_id
),
drawn AS (
    SELECT s.organization_id, s.session_epoch, d.budget_window_id,
           sum(s.amount_nanos) AS amount_nanos
    FROM sums AS s
    JOIN draw_sets AS t ON t.organization_id = s.organization_id AND t.id = s.draw_set_id
    CROSS JOIN LATERAL unnest(t.budget_window_ids) AS d (budget_window_id)
    GROUP BY s.organization_id, s.session_epoch, d.budget_window_id
),
held AS (
    SELECT organization_id, session_epoch, budget_window_id, lost_nanos
    FROM allowances
    WHERE lost_nanos <> 0 AND ($1::bigint IS NULL OR organization_id = $1)
),
compared AS (
    SELECT CASE WHEN coalesce(h.lost_nanos, 0) <> coalesce(d.amount_nanos, 0) THEN
        format('organization %s session %s window %s: its allowance lost %s nanos, its entries'
               ' of what was lost say %s nanos',
               coalesce(h.organization_id, d.organization_id),
               coalesce(h.session_epoch, d.session_epoch),
               coalesce(h.budget_window_id, d.budget_window_id),
               coalesce(h.lost_nanos, 0), coalesce(d.amount_nanos, 0))
    END AS difference, coalesce(h.organization_id, d.organization_id) AS organization_id,
    coalesce(h.session_epoch, d.session_epoch) AS session_epoch,
    coalesce(h.budget_window_id, d.budget_window_id) AS budget_window_id,
    coalesce(d.amount_nanos, 0) - coalesce(h.lost_nanos, 0) AS off_nanos
    FROM held AS h
    FULL JOIN drawn AS d
      ON d.organization_id = h.organization_id AND d.session_epoch = h.session_epoch
     AND d.budget_window_id = h.budget_window_id
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_resolved_sessions_hold_nothing
WITH resolved AS (
    SELECT DISTINCT organization_id, session_epoch
    FROM resolutions
    WHERE applied_at IS NOT NULL AND refusal = ''
      AND ($1::bigint IS NULL OR organization_id = $1)
),
compared AS (
    SELECT CASE
        WHEN s.state IS NULL OR s.state = 'open'
        THEN format('organization %s session %s: was resolved and is %s', r.organization_id,
                    r.session_epoch, coalesce(s.state, 'not there'))
        WHEN a.held_nanos > 0
        THEN format('organization %s session %s: was resolved and holds %s nanos',
                    r.organization_id, r.session_epoch, a.held_nanos)
    END AS difference
    FROM resolved AS r
    LEFT JOIN sessions AS s
      ON s.organization_id = r.organization_id AND s.session_epoch = r.session_epoch
    LEFT JOIN LATERAL (
        SELECT sum(greatest(granted_nanos - returned_nanos - settled_nanos, 0)) AS held_nanos
        FROM allowances
        WHERE organization_id = r.organization_id AND session_epoch = r.session_epoch
    ) AS a ON true
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_allowances_are_sound
WITH compared AS (
    SELECT CASE
        WHEN granted_nanos < 0 OR returned_nanos NOT BETWEEN 0 AND granted_nanos
        THEN format('organization %s session %s window %s: returned %s of %s nanos granted',
                    organization_id, session_epoch, budget_window_id, returned_nanos, granted_nanos)
        WHEN in_doubt_nanos < 0
          OR in_doubt_nanos > greatest(granted_nanos - returned_nanos - settled_nanos, 0)
        THEN format('organization %s session %s window %s: %s nanos in doubt of %s held',
                    organization_id, session_epoch, budget_window_id, in_doubt_nanos,
                    greatest(granted_nanos - returned_nanos - settled_nanos, 0))
        WHEN lost_nanos NOT BETWEEN 0 AND greatest(settled_nanos, 0)
        THEN format('organization %s session %s window %s: %s nanos lost of %s settled',
                    organization_id, session_epoch, budget_window_id, lost_nanos, settled_nanos)
    END AS difference, organization_id, session_epoch, budget_window_id
    FROM allowances
    WHERE $1::bigint IS NULL OR organization_id = $1
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;

-- name: check_records_are_guarded
-- Of all organizations, whichever was asked for: the guards stand on the tables.
WITH compared AS (
    SELECT CASE WHEN t.oid IS NULL OR t.tgenabled NOT IN ('O', 'A')
        THEN format('%s: its trigger %s is missing or off: rows can be changed', g.on_table, g.name)
    END AS difference
    FROM (VALUES ('entries', 'entries_are_append_only'),
                 ('opening_lines', 'opening_lines_are_append_only'),
                 ('budget_versions', 'budget_versions_are_append_only'),
                 ('budget_raise_steps', 'budget_raise_steps_are_append_only')) AS g (on_table, name)
    LEFT JOIN pg_trigger AS t ON t.tgrelid = to_regclass(g.on_table) AND t.tgname = g.name
    WHERE $1::bigint IS NULL OR $1 > 0
    UNION ALL
    SELECT CASE WHEN i.indexrelid IS NULL
        THEN 'entries: its primary key is missing or broken: a charge could be posted twice'
    END
    FROM (SELECT to_regclass('entries') AS relid) AS e
    LEFT JOIN pg_index AS i
      ON i.indrelid = e.relid AND i.indisprimary AND i.indisvalid AND i.indisunique
)
SELECT (SELECT count(*) FROM compared) AS checked_count,
       (SELECT count(difference) FROM compared) AS difference_count,
       (SELECT jsonb_agg(to_jsonb(t)) FROM (
            SELECT * FROM compared WHERE difference IS NOT NULL ORDER BY difference LIMIT $2
        ) AS t) AS told;
