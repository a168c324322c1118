import { ApiError } from '../../shared/api/errors.ts'

const booleans = [
  'public',
  'enable_content_trust',
  'enable_content_trust_cosign',
  'prevent_vul',
  'auto_scan',
  'auto_sbom_generation',
  'reuse_sys_cve_allowlist',
]

/** Gates that this version does not have: set, they would promise a protection that is not there. */
const gates = ['enable_content_trust', 'enable_content_trust_cosign', 'prevent_vul']

const severities = ['none', 'negligible', 'low', 'medium', 'high', 'critical']

/** The settings that a project may have. [harbor api/v2.0/swagger.yaml, ProjectMetadata] */
export const metadataNames: readonly string[] = [...booleans, 'severity']

/**
 * Checks one setting, and gives its value as it is stored.
 * @throws ApiError BAD_REQUEST for a name or a value that cannot be
 */
export function checkMetadata(name: string, value: string): string {
  if (name === 'severity') {
    const severity = value.toLowerCase()
    if (severities.includes(severity)) return severity
    throw new ApiError('BAD_REQUEST', `severity must be one of ${severities.join(', ')}`)
  }
  if (!booleans.includes(name)) {
    throw new ApiError('BAD_REQUEST', `a project's settings are ${metadataNames.join(', ')}`)
  }
  const truth = readBoolean(value)
  if (truth === undefined) throw new ApiError('BAD_REQUEST', `${name} must be true or false`)
  if (truth && gates.includes(name)) {
    throw new ApiError(
      'BAD_REQUEST',
      `${name} cannot be set yet: this version does not enforce it, and would only seem to protect`,
    )
  }
  return String(truth)
}

/** The texts that Harbor's clients send for a truth. [Go strconv.ParseBool] */
function readBoolean(value: string): boolean | undefined {
  if (['1', 't', 'T', 'true', 'TRUE', 'True'].includes(value)) return true
  if (['0', 'f', 'F', 'false', 'FALSE', 'False'].includes(value)) return false
  return undefined
}
