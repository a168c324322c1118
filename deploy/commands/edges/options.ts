import { UsageError } from '../../command-line.ts'
import { primaryOptions } from '../primary-options.ts'

/** The options of every command of the admin API. */
export const adminOptions = {
  primary: {
    type: 'string',
    value: 'URL',
    help: "the primary (default http://127.0.0.1:8080, where 'outport up' has it)",
  },
  user: { type: 'string', value: 'NAME', help: 'a system administrator (default admin)' },
  'password-file': {
    type: 'string',
    value: 'FILE',
    help: 'the file that holds the password; else OUTPORT_ADMIN_PASSWORD or OUTPORT_ADMIN_PASSWORD_FILE, else it is piped in, or typed',
  },
  ...primaryOptions,
  json: { type: 'boolean', help: 'print what the API answers' },
} as const

/** What `adminOptions` were given as. */
export interface AdminFlags {
  readonly primary: string | undefined
  readonly user: string | undefined
  readonly 'password-file': string | undefined
  readonly ca: string | undefined
  readonly 'insecure-http': boolean
}

/** What an administrator says of an edge, when it is invited and later. */
export const edgeOptions = {
  scope: {
    type: 'string',
    multiple: true,
    value: 'PROJECT',
    help: 'a project that the edge may read',
  },
  'all-projects': { type: 'boolean', help: 'the edge may read every project' },
  site: { type: 'string', value: 'SITE', help: 'where it stands: edges of a site are near' },
  region: { type: 'string', value: 'REGION', help: 'the part of the world of its site' },
  label: {
    type: 'string',
    multiple: true,
    value: 'KEY=VALUE',
    help: 'a label, by which rules select edges',
  },
} as const

interface ScopeFlags {
  readonly scope: readonly string[]
  readonly 'all-projects': boolean
}

/**
 * The projects of `--scope` and `--all-projects`, as the API takes them; undefined where neither was given.
 * @throws UsageError when both were
 */
export function parseScope({
  scope,
  'all-projects': isAll,
}: ScopeFlags): '*' | readonly string[] | undefined {
  if (isAll && scope.length > 0) {
    throw new UsageError('--scope and --all-projects exclude each other')
  }
  if (isAll) return '*'
  return scope.length === 0 ? undefined : [...new Set(scope)]
}

/**
 * The labels of `--label KEY=VALUE`.
 * @throws UsageError when one has no key or is given twice
 */
export function parseLabels(labels: readonly string[]): Readonly<Record<string, string>> {
  const parsed = new Map<string, string>()
  for (const label of labels) {
    const [, key, value] = /^([^=]+)=(.*)$/s.exec(label) ?? []
    if (key === undefined || value === undefined) {
      throw new UsageError(`--label must be KEY=VALUE, not '${label}'`)
    }
    if (parsed.has(key)) throw new UsageError(`--label ${key} is given twice`)
    parsed.set(key, value)
  }
  return Object.fromEntries(parsed)
}

/** The API's path of an edge, and what to say where there is none. */
export function edgePath(
  id: string,
  action = '',
): { readonly path: string; readonly absent: string } {
  return {
    path: `/edges/${encodeURIComponent(id)}${action}`,
    absent: `there is no edge '${id}' at this primary: 'outport edges list' shows them`,
  }
}
