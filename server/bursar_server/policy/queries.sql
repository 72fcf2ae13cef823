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

-- name: mark_effective
-- Only the first time counts.
UPDATE policy_changes SET effective_at = greatest($3, created_at)
WHERE organization_id = $1 AND policy_version <= $2 AND effective_at IS NULL;
