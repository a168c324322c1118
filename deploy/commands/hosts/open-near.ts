import { setTimeout as sleep } from 'node:timers/promises'
import { createConsulClient } from '../../../shared/discovery/consul-client.ts'
import { watchMembers, type Member } from '../../../shared/discovery/members.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createKnownEdges } from './known-edges.ts'
import { createNear, type KnownEdge, type Near } from './near.ts'
import type { NearSettings } from './near-options.ts'
import { parseEndpoint, readCa } from './options.ts'
import { createPings } from './pings.ts'
import type { NearestDeps } from './watch.ts'

/** How long Consul may take to say who is there before it goes without. */
const consulMs = 5000

/** What of edges is looked at again and again; the caller closes it. */
interface OpenNear extends Near {
  close(): Promise<void>
}

interface OpenNearDeps extends Pick<NearestDeps, 'mirroring' | 'plainHttp' | 'port'> {
  /** Tells a person what is not as it should be. */
  readonly say: (line: string) => void
}

/** Opens what tells which edges there are, and how near they are. @throws StartError where no edge is known */
export async function openNear(
  { mirroring, plainHttp, port, say }: OpenNearDeps,
  { consul, site, machine }: NearSettings,
): Promise<OpenNear> {
  const ca = await readCa(mirroring)
  const pings = createPings({ ca })
  if (mirroring.edges.length > 0 || mirroring.primary === undefined) {
    const given = mirroring.edges.map((endpoint) => {
      const { url } = endpoint
      return { id: url, url, site: undefined, endpoint }
    })
    const edges = (): Promise<readonly KnownEdge[]> => Promise.resolve(given)
    const near = createNear({ edges, members: () => [], pings, site, machine })
    return { ...near, close: async () => pings.close() }
  }
  const known = createKnownEdges({
    primary: mirroring.primary,
    ca,
    endpointOf: ({ url }) => parseEndpoint('edge', atPort(url, port), plainHttp),
    say,
  })
  const watched = await watchConsul(consul, { latest: known.latest, say })
  const near = createNear({ edges: known.edges, members: watched.members, pings, site, machine })
  return {
    async look() {
      // First who counts: what Consul says is checked by that.
      await known.edges()
      await watched.ready
      return near.look()
    },
    async close() {
      await watched.close()
      known.close()
      pings.close()
    },
  }
}

function atPort(text: string, port: string | undefined): string {
  if (port === undefined) return text
  const url = new URL(text)
  url.port = port
  return url.origin
}

interface WatchedConsul {
  members(): readonly Member[]
  /** Ends when it has said who is there, or takes too long. */
  readonly ready: Promise<unknown>
  close(): Promise<void>
}

async function watchConsul(
  settings: NearSettings['consul'],
  {
    latest,
    say,
  }: { readonly latest: () => readonly KnownEdge[]; readonly say: (line: string) => void },
): Promise<WatchedConsul> {
  if (settings === undefined)
    return { members: () => [], ready: Promise.resolve(), close: async () => undefined }
  const client = await createConsulClient(settings)
  const members = watchMembers({
    client,
    roster: () => latest().map(({ id }) => id),
    urlOf: (edgeId) => latest().find(({ id }) => id === edgeId)?.url,
    log: createLogger({ level: 'warn', write: (line) => say(wordsOf(line)) }),
  })
  const late = new AbortController()
  const ready = Promise.race([
    members.ready,
    sleep(consulMs, undefined, { signal: late.signal }).catch(() => undefined),
  ])
  return {
    members: () => members.list(),
    ready,
    async close() {
      late.abort()
      await members.close()
      client.close()
    },
  }
}

/** A line of the log, for people. */
function wordsOf(line: string): string {
  const { msg, reason, service, entries } = JSON.parse(line) as Readonly<Record<string, unknown>>
  const details = [reason, service, entries].flatMap((detail) =>
    typeof detail === 'string' || typeof detail === 'number' ? [String(detail)] : [],
  )
  return [String(msg), ...(details.length === 0 ? [] : [`(${details.join(', ')})`])].join(' ')
}
