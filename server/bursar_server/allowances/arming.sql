-- name: budgets_begun
SELECT budget_id FROM armings WHERE budget_id = ANY($1::bigint[])
UNION
SELECT budget_id FROM budget_windows WHERE budget_id = ANY($1::bigint[]);

-- name: policy_version
SELECT policy_version FROM organizations WHERE id = $1;

-- name: sessions_that_may_spend
SELECT s.organization_id, s.session_epoch, s.state, s.applied_seq, s.settled_count,
       s.highest_settled_n, s.last_n, s.journal, s.lost_count, s.decision, s.policy_version,
       s.policy_last_n
FROM sessions AS s
WHERE s.organization_id = $1 AND s.state <> 'closed'
  AND s.last_seen_at >= coalesce(
      CASE $2
          WHEN 'team' THEN (SELECT created_at FROM teams WHERE organization_id = $1 AND id = $3)
          WHEN 'project'
          THEN (SELECT created_at FROM projects WHERE organization_id = $1 AND id = $3)
          WHEN 'user' THEN (SELECT created_at FROM users WHERE organization_id = $1 AND id = $3)
          WHEN 'key' THEN (SELECT created_at FROM keys WHERE organization_id = $1 AND id = $3)
      END, s.last_seen_at)
ORDER BY s.session_epoch;

-- name: save_arming
INSERT INTO armings (organization_id, budget_id, policy_version, began_at)
VALUES ($1, $2, $3, $4);

-- name: save_arming_sessions
INSERT INTO arming_sessions (organization_id, budget_id, policy_version, session_epoch, last_n)
SELECT $1, $2, $3, * FROM unnest($4::bigint[], $5::bigint[]);

-- name: arming_sessions
SELECT organization_id, budget_id, session_epoch, policy_version, last_n FROM arming_sessions;

-- name: save_heard
UPDATE arming_sessions AS a SET last_n = c.last_n
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
     AS c (organization_id, budget_id, session_epoch, last_n)
WHERE a.organization_id = c.organization_id AND a.budget_id = c.budget_id
  AND a.session_epoch = c.session_epoch;

-- name: forget_arming
DELETE FROM arming_sessions WHERE session_epoch = ANY($1::bigint[]);

-- name: budgets_of_windows
SELECT id, budget_id FROM budget_windows WHERE id = ANY($1::bigint[]);

-- name: windows_around
(SELECT id, start_at, end_at FROM budget_windows
 WHERE organization_id = $1 AND budget_id = $2 AND split_value = ''
 ORDER BY start_at LIMIT 1)
UNION
(SELECT id, start_at, end_at FROM budget_windows
 WHERE organization_id = $1 AND budget_id = $2 AND split_value = '' AND start_at <= $3
 ORDER BY start_at DESC LIMIT 1);
