import { checkOrigin, isLoopback } from '../shared/config/origins.ts'
import { isExemption, proxyProblem } from '../shared/http/proxy.ts'
import { isRepositoryName, parseReference } from '../shared/oci/reference.ts'
import type { EdgeListenerOptions, RawOptions, UpstreamOptions } from './config.ts'
import { nameInPin } from './mirror/pins.ts'
import { primaryId, upstreamTable } from './upstreams/configured.ts'
import { parseMirror } from './upstreams/mirrors.ts'

// What the schema cannot say of an edge's options: how they go together.

type Report = (path: string, message: string) => void

export function checkListenerNames(options: RawOptions, report: Report): void {
  const table = upstreamTable(options)
  const ids = table.map(({ id }) => id)
  const passedThrough = table.filter(({ access }) => access === 'passthrough').map(({ id }) => id)
  const names = new Set<string>()
  options.listeners.forEach((listener, index) => {
    const at = `listeners.${index}`
    if (names.has(listener.name)) {
      report(`${at}.name`, `'${listener.name}' is another listener's name already`)
    }
    names.add(listener.name)
    if (!ids.includes(listener.default)) {
      report(
        `${at}.default`,
        `no upstream has the id '${listener.default}'; there are ${ids.join(', ')}`,
      )
    } else checkPassthrough(listener, passedThrough, { at, report })
  })
}

/** Somebody's own login goes to one place, over TLS, and what it may read is for that one alone. */
function checkPassthrough(
  { default: fallback, passthrough, ping, tls }: EdgeListenerOptions,
  passedThrough: readonly string[],
  { at, report }: { readonly at: string; readonly report: Report },
): void {
  if (passthrough === undefined) {
    if (passedThrough.includes(fallback))
      report(`${at}.passthrough`, `must be '${fallback}' too: its clients use their own logins`)
    return
  }
  if (!passedThrough.includes(passthrough))
    report(`${at}.passthrough`, `no upstream '${passthrough}' has the access passthrough`)
  if (passthrough !== fallback) report(`${at}.default`, `must be '${passthrough}', as passthrough`)
  if (tls === undefined) report(`${at}.tls`, 'is required with passthrough')
  if (ping === 'open') report(`${at}.ping`, "must be 'challenge' with passthrough")
}

export function checkUpstreams(options: RawOptions, report: Report): void {
  const ids = new Set<string>()
  options.upstreams.forEach(({ id }, index) => {
    const at = `upstreams.${index}.id`
    if (id === primaryId) report(at, `'${id}' is the primary, which edge.primary describes`)
    else if (ids.has(id)) report(at, `'${id}' is another upstream's id already`)
    ids.add(id)
  })
  const owners = new Map<string, string>()
  const table = upstreamTable(options)
  const readyMade = table.length - options.upstreams.length
  table.forEach((upstream, row) => {
    const at = row < readyMade ? undefined : `upstreams.${row - readyMade}`
    for (const name of new Set(
      [upstream.id, ...upstream.names].map((word) => word.toLowerCase()),
    )) {
      const owner = owners.get(name)
      if (owner !== undefined && owner !== upstream.id) {
        report(
          at === undefined ? 'primary.names' : `${at}.names`,
          `'${name}' also names the upstream '${owner}'`,
        )
      }
      owners.set(name, upstream.id)
    }
    if (at === undefined) return
    checkUpstream(upstream, at, report)
    checkMirrors(upstream, table, { at: `${at}.mirrors`, report })
  })
}

function checkMirrors(
  { id: upstream, access, mirrors }: UpstreamOptions,
  table: readonly UpstreamOptions[],
  { at, report }: { readonly at: string; readonly report: Report },
): void {
  if (access === 'passthrough' && mirrors.length > 0)
    return report(at, 'are not for passthrough: a mirror knows nothing of what a client may read')
  const seen = new Set<string>()
  mirrors.forEach((text, index) => {
    const mirror = parseMirror(text)
    const problem =
      mirror === undefined
        ? `'${text}' is neither an id nor an id, a slash and the beginning of repository names`
        : seen.has(mirror.id)
          ? `'${mirror.id}' is listed already`
          : mirrorProblem(mirror.id, upstream, table)
    if (problem !== undefined) report(`${at}.${index}`, problem)
    if (mirror !== undefined) seen.add(mirror.id)
  })
}

function mirrorProblem(
  id: string,
  upstream: string,
  table: readonly UpstreamOptions[],
): string | undefined {
  if (id === upstream) return 'is the upstream itself'
  if (id === primaryId) return 'is the primary, which mirrors nobody'
  // Filtered, not found: a wrong one is a hole in the table.
  const [mirror] = table.filter((other) => other.id === id)
  if (mirror === undefined)
    return `no upstream has the id '${id}'; there are ${table.map((other) => other.id).join(', ')}`
  if (mirror.access === 'passthrough')
    return `'${id}' is for clients with their own logins (passthrough), and is asked for nobody else`
  return undefined
}

function checkUpstream(upstream: UpstreamOptions, at: string, report: Report): void {
  if (upstream.url === '') return report(`${at}.url`, 'is required')
  checkOrigin(upstream.url, `${at}.url`, report)
  checkClientCert(upstream, at, report)
  const { access, credentials } = upstream
  if (access === 'passthrough') {
    if (credentials !== undefined)
      report(`${at}.credentials`, 'are of no use with passthrough: clients bring their own')
    if (upstream.prefetch !== 'off')
      report(`${at}.prefetch`, "must be off with passthrough: each client's own login decides")
    if (upstream.kind === 'outport')
      report(`${at}.access`, 'must be open: an Outport has robots for its edges')
    checkClearCredentials(upstream, at, report)
  }
  if (credentials === undefined) return
  if ((credentials.password === undefined) === (credentials.password_file === undefined)) {
    report(`${at}.credentials`, 'needs either password or password_file')
  }
  checkClearCredentials(upstream, at, report)
}

export function checkShares(options: RawOptions, report: Report): void {
  const ids = upstreamTable(options).map(({ id }) => id)
  const named = new Set<string>()
  options.cache.shares.forEach(({ upstream, project }, index) => {
    const at = `cache.shares.${index}`
    if (!ids.includes(upstream)) report(`${at}.upstream`, `no upstream has the id '${upstream}'`)
    if (project !== undefined && upstream !== primaryId)
      report(`${at}.project`, 'is for the primary only')
    const name = `${upstream} ${project ?? ''}`
    if (named.has(name)) report(at, 'another share is of the same')
    named.add(name)
  })
}

export function checkPins(options: RawOptions, report: Report): void {
  const ids = upstreamTable(options).map(({ id }) => id)
  options.cache.pins.forEach(({ upstream, repository, references = [] }, index) => {
    const at = `cache.pins.${index}`
    if (!ids.includes(upstream)) report(`${at}.upstream`, `no upstream has the id '${upstream}'`)
    if (!isRepositoryName(nameInPin(repository)))
      report(`${at}.repository`, `'${repository}' is neither a repository's name nor 'name/**'`)
    references.forEach((reference, place) => {
      if (parseReference(reference) === undefined)
        report(`${at}.references.${place}`, `'${reference}' is neither a tag nor a digest`)
    })
  })
}

export function checkPrimary(options: RawOptions, report: Report): void {
  checkOrigin(options.primary.url, 'primary.url', report)
  checkClientCert(options.primary, 'primary', report)
  if (options.credential_file === undefined) return
  if (options.id === undefined) report('id', 'is required with credential_file')
  checkClearCredentials(options.primary, 'primary', report)
}

function checkClientCert(
  { url, client_cert }: Pick<UpstreamOptions, 'url' | 'client_cert'>,
  at: string,
  report: Report,
): void {
  if (client_cert === undefined || URL.parse(url)?.protocol !== 'http:') return
  report(`${at}.client_cert`, 'is shown over https only, and the url is plain http')
}

export function checkProxy({ proxy, no_proxy = [] }: RawOptions['outbound'], report: Report): void {
  const problem = proxy === undefined ? undefined : proxyProblem(proxy)
  if (problem !== undefined) report('outbound.proxy', problem)
  no_proxy.forEach((entry, index) => {
    if (!isExemption(entry)) report(`outbound.no_proxy.${index}`, `'${entry}' names no host`)
  })
}

/** A secret crosses a network in clear only where somebody said so. */
function checkClearCredentials(
  target: { readonly url: string; readonly insecure_http: boolean },
  at: string,
  report: Report,
): void {
  const url = URL.parse(target.url)
  if (url?.protocol !== 'http:' || isLoopback(url.hostname) || target.insecure_http) return
  report(
    `${at}.url`,
    'would send credentials over plain http: use https, or set insecure_http there',
  )
}
