import { readFileSync } from 'node:fs'
import { formatBasic } from '../shared/auth/basic.ts'
import { isRecord } from '../shared/config/record.ts'
import type { HttpResponse } from '../shared/http/client.ts'
import type { AdminFlags } from './commands/edges/options.ts'
import {
  createPrimaryClient,
  messageOf,
  parsePrimaryUrl,
  readPrimaryCa,
  redirectOf,
  waitOf,
} from './primary-client.ts'
import { readSecret } from './secret-input.ts'
import { StartError } from './start-errors.ts'

interface AdminCall {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  readonly body?: object
  /** What to do when the path leads nowhere: `there is no edge 'x'`. */
  readonly absent?: string
}

/** What the admin API answered. */
export interface AdminAnswer {
  readonly text: string
  /** The body as JSON; undefined when it is none. */
  readonly json: unknown
  /** How long the whole list is. */
  readonly total: number | undefined
}

/** The admin API of a primary, as one of its administrators. */
export interface AdminApi {
  /**
   * @param path below `/api/v2.0`
   * @throws StartError that says in one line what the primary refused, and what to do
   */
  call(path: string, call?: AdminCall): Promise<AdminAnswer>
  /** All elements of a list, page by page. */
  list(path: string): Promise<readonly unknown[]>
}

const pageSize = 100

/**
 * Lets a command speak to the admin API.
 * @throws UsageError when the options are wrong, StartError when there is no password or no answer
 */
export async function withAdminApi<Result>(
  flags: AdminFlags,
  use: (api: AdminApi) => Promise<Result>,
): Promise<Result> {
  const url = parsePrimaryUrl(flags.primary ?? defaultPrimary, {
    what: '--primary',
    insecureHttp: flags['insecure-http'],
  })
  const username = flags.user ?? 'admin'
  const ca = await readPrimaryCa(flags.ca)
  const password = await readPassword(flags['password-file'], { username, host: url.host })
  const authorization = formatBasic({ username, password })
  const client = createPrimaryClient({ url, ca })
  try {
    return await use(
      createAdminApi(async (path, { method = 'GET', body, absent }) => {
        const response = await client.ask(`/api/v2.0${path}`, {
          method,
          headers: {
            authorization,
            ...(body !== undefined && { 'content-type': 'application/json' }),
          },
          ...(body !== undefined && { body: JSON.stringify(body) }),
        })
        if (response.status >= 200 && response.status < 300) return response
        throw refusalOf(response, { url, username, password, absent })
      }),
    )
  } finally {
    client.close()
  }
}

/** Where `up` puts its own. */
export const defaultPrimary = 'http://127.0.0.1:8080'

function createAdminApi(send: (path: string, call: AdminCall) => Promise<HttpResponse>): AdminApi {
  const call: AdminApi['call'] = async (path, made = {}) => {
    const { body, headers } = await send(path, made)
    const text = body.toString('utf8')
    const total = headers['x-total-count'] ?? ''
    return { text, json: parseJson(text), total: /^\d+$/.test(total) ? Number(total) : undefined }
  }
  return {
    call,
    async list(path) {
      const all: unknown[] = []
      for (let page = 1; ; page++) {
        const { json, total = 0 } = await call(`${path}?page=${page}&page_size=${pageSize}`)
        if (!Array.isArray(json)) throw new StartError(`${path} is no list at this primary`)
        all.push(...(json as unknown[]))
        if (json.length === 0 || all.length >= total) return all
      }
    },
  }
}

/** As the primary takes its first password: the file's before the one that stands there. */
function passwordOfEnvironment(): string | undefined {
  const { OUTPORT_ADMIN_PASSWORD: written, OUTPORT_ADMIN_PASSWORD_FILE: file } = process.env
  if (file === undefined || file === '') return written || undefined
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '') || undefined
  } catch (cause) {
    throw new StartError(`cannot read ${file}, which OUTPORT_ADMIN_PASSWORD_FILE names`, { cause })
  }
}

async function readPassword(
  file: string | undefined,
  { username, host }: { readonly username: string; readonly host: string },
): Promise<string> {
  const known = file === undefined ? passwordOfEnvironment() : undefined
  if (known !== undefined) return known
  return readSecret({
    file,
    question: `Password of ${username} at ${host}: `,
    missing: `there is no password for ${username}: pipe it in, name its file with --password-file, or set OUTPORT_ADMIN_PASSWORD_FILE`,
  })
}

interface RefusedCall {
  readonly url: URL
  readonly username: string
  readonly password: string
  readonly absent: string | undefined
}

function refusalOf(
  response: HttpResponse,
  { url, username, password, absent }: RefusedCall,
): StartError {
  const said = messageOf(response)?.replaceAll(password, '…')
  const because = said === undefined ? '' : `: ${said}`
  switch (response.status) {
    case 401:
      return new StartError(
        `${url.host} does not take this password of ${username}${because}; give another --user or --password-file`,
      )
    case 403:
      return new StartError(
        `${username} may not do this at ${url.host}${because}; log in as a system administrator with --user`,
      )
    case 404:
      return new StartError(
        absent ?? `${url.host} has no edges to manage: check that --primary is an Outport primary`,
      )
    case 400:
    case 409:
    case 412:
    case 422:
      return new StartError(
        `${url.host} refuses this${said === undefined ? ` (${response.status})` : because}`,
      )
    case 429:
      return new StartError(`${url.host} had too many log-ins: try again ${waitOf(response)}`)
  }
  if (response.status >= 300 && response.status < 400) {
    return new StartError(
      `${url.origin} redirects ${redirectOf(url, response)}: give the primary's own URL with --primary`,
    )
  }
  return new StartError(
    `${url.host} answers ${response.status}${because}: try again, and look into the primary's log if that does not help`,
  )
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}

/** An edge, as the admin API shows it. */
export interface ShownEdge {
  readonly id: string
  readonly name: string
  readonly site: string
  readonly region: string
  readonly labels: Readonly<Record<string, string>>
  readonly scope: '*' | readonly string[]
  readonly acceptPeople: boolean
  readonly state: string
  /** Why it is suspended, where no administrator did it; else empty. */
  readonly reason: string
  /** Undefined: it was never heard of. */
  readonly status: ShownStatus | undefined
  readonly enrolled: boolean
  readonly created: string
  readonly updated: string
}

/** What an edge last said of itself. A number that is not there is undefined. */
export interface ShownStatus {
  readonly version: string
  readonly lastSeen: string
  readonly lastError: string
  /** Empty: it does not say. */
  readonly lastErrorAt: string
  readonly transfers: number | undefined
  readonly lagEvents: number | undefined
  readonly lagSeconds: number | undefined
  readonly heldLagEvents: number | undefined
  readonly waitingBytes: number | undefined
  readonly cacheBytes: number | undefined
  readonly cacheSizeBytes: number | undefined
  readonly hitRatio: number | undefined
  readonly servedBytes: number | undefined
  readonly clockSkewMs: number | undefined
  readonly failures: number | undefined
  /** Undefined: it does not prune, or has not looked yet. */
  readonly prune: ShownPrune | undefined
}

/** What nothing keeps at an edge, and what went. */
export interface ShownPrune {
  readonly outcome: string
  readonly at: string
  readonly blobs: number | undefined
  readonly bytes: number | undefined
  readonly removed:
    | {
        readonly at: string
        readonly blobs: number | undefined
        readonly bytes: number | undefined
      }
    | undefined
}

/** Reads an edge of the admin API; what is not there is empty. */
export function readEdge(value: unknown): ShownEdge {
  const fields = isRecord(value) ? value : {}
  const text = (name: string) => textOf(fields[name])
  const { labels, scope } = fields
  return {
    id: text('id'),
    name: text('name'),
    site: text('site'),
    region: text('region'),
    labels: isRecord(labels)
      ? Object.fromEntries(Object.entries(labels).map(([key, label]) => [key, textOf(label)]))
      : {},
    scope: Array.isArray(scope) ? scope.map(textOf) : '*',
    acceptPeople: fields['accept_people'] === true,
    state: text('state'),
    reason: text('reason'),
    status: readStatus(fields['status']),
    enrolled: fields['enrolled'] === true,
    created: text('creation_time'),
    updated: text('update_time'),
  }
}

function readStatus(value: unknown): ShownStatus | undefined {
  if (!isRecord(value)) return undefined
  const text = (name: string) => textOf(value[name])
  const number = (name: string) => numberOf(value[name])
  return {
    version: text('version'),
    lastSeen: text('last_seen'),
    lastError: text('last_error'),
    lastErrorAt: text('last_error_at'),
    transfers: number('transfers'),
    lagEvents: number('lag_events'),
    lagSeconds: number('lag_seconds'),
    heldLagEvents: number('held_lag_events'),
    waitingBytes: number('waiting_bytes'),
    cacheBytes: number('cache_bytes'),
    cacheSizeBytes: number('cache_size_bytes'),
    hitRatio: number('hit_ratio'),
    servedBytes: number('served_bytes'),
    clockSkewMs: number('clock_skew_ms'),
    failures: number('failures'),
    prune: readPrune(value['prune']),
  }
}

function readPrune(value: unknown): ShownPrune | undefined {
  if (!isRecord(value)) return undefined
  const { outcome, removed } = value
  return {
    outcome: textOf(outcome),
    ...readAmount(value),
    removed: isRecord(removed) ? readAmount(removed) : undefined,
  }
}

function readAmount({ at, blobs, bytes }: Readonly<Record<string, unknown>>) {
  return { at: textOf(at), blobs: numberOf(blobs), bytes: numberOf(bytes) }
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined
}

function textOf(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
}
