-- name: latest_change
SELECT policy_version, created_at, effective_at FROM policy_changes
WHERE organization_id = $1 AND ($2::text IS NULL OR (kind = $2 AND subject_id = $3))
ORDER BY policy_version DESC
LIMIT 1;

-- name: holders
SELECT s.organization_id, s.session_epoch, c.slug AS sidecar_slug,
       o.slug AS sidecar_organization_slug, s.policy_version, s.last_seen_at
FROM sessions AS s
JOIN sidecars AS c ON c.organization_id = s.sidecar_organization_id AND c.id = s.sidecar_id
JOIN organizations AS o ON o.id = s.sidecar_organization_id
WHERE s.organization_id = ANY($1::bigint[]) AND s.state <> 'closed'
ORDER BY s.organization_id, s.session_epoch;

-- name: pending_changes
SELECT organization_id, max(policy_version) AS policy_version FROM policy_changes
WHERE effective_at IS NULL
GROUP BY organization_id;

-- name: is_unmarked
SELECT EXISTS (SELECT FROM policy_changes WHERE effective_at IS NULL)
    OR EXISTS (SELECT FROM armings WHERE armed_at IS NULL);

-- name: arming
SELECT policy_version, began_at, armed_at FROM armings
WHERE organization_id = $1 AND budget_id = $2;

-- name: arming_holders
-- The sessions that did not say yet that they know a budget.
SELECT s.organization_id, s.session_epoch, c.slug AS sidecar_slug,
       o.slug AS sidecar_organization_slug, s.policy_version, s.last_seen_at
FROM arming_sessions AS a
JOIN sessions AS s USING (organization_id, session_epoch)
JOIN sidecars AS c ON c.organization_id = s.sidecar_organization_id AND c.id = s.sidecar_id
JOIN organizations AS o ON o.id = s.sidecar_organization_id
WHERE a.organization_id = $1 AND a.budget_id = $2 AND a.last_n IS NULL
ORDER BY s.session_epoch;

-- name: mark_armed
-- $2: who was last heard of before has lapsed.
UPDATE armings AS b SET armed_at = $1
WHERE b.armed_at IS NULL AND NOT EXISTS (
    SELECT FROM arming_sessions AS a
    JOIN sessions AS s USING (organization_id, session_epoch)
    WHERE a.organization_id = b.organization_id AND a.budget_id = b.budget_id
      AND a.last_n IS NULL AND s.last_seen_at > $2
);

-- name: effective_at
SELECT effective_at FROM policy_changes WHERE organization_id = $1 AND policy_version = $2;

-- name: mark_effective
-- Only the first time counts.
UPDATE policy_changes SET effective_at = greatest($3, created_at)
WHERE organization_id = $1 AND policy_version <= $2 AND effective_at IS NULL;
