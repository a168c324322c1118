import type { Endpoint } from '../../../shared/clients/mirroring.ts'
import {
  clientEdgesPath,
  parseClientEdges,
  type ClientEdge,
} from '../../../shared/discovery/client-edges.ts'
import { parseJson } from '../../../shared/auth/json.ts'
import { UsageError } from '../../command-line.ts'
import { createPrimaryClient, type PrimaryClient } from '../../primary-client.ts'
import { StartError } from '../../start-errors.ts'
import type { KnownEdge } from './near.ts'

/** The edges that the primary tells clients of: what it said last, when it does not answer. */
export interface KnownEdges {
  edges(): Promise<readonly KnownEdge[]>
  /** By id; those that it named last. */
  latest(): readonly KnownEdge[]
  close(): void
}

export interface KnownEdgesDeps {
  readonly primary: Endpoint
  readonly ca: string | undefined
  /** What is to be written of an edge. @throws UsageError when it may not be: plain http that nobody allowed */
  readonly endpointOf: (edge: ClientEdge) => Endpoint
  /** Told once of each thing that is passed over. */
  readonly say: (line: string) => void
  readonly now?: () => number
}

/** Edges come and go in minutes; who of them is healthy is seen otherwise. */
const keptMs = 60_000
/** A primary that does not answer is asked again sooner. */
const retryMs = 10_000

/** @throws StartError from the first `edges` on, until the primary has named one */
export function createKnownEdges(deps: KnownEdgesDeps): KnownEdges {
  const { primary, endpointOf, say, now = () => performance.now() } = deps
  const client = createPrimaryClient({ url: new URL(primary.url), ca: deps.ca })
  const said = new Set<string>()
  let latest: readonly KnownEdge[] = []
  let readAgainAt = -Infinity

  const sayOnce = (line: string): void => {
    if (said.has(line)) return
    said.add(line)
    say(line)
  }

  function known(edge: ClientEdge): readonly KnownEdge[] {
    try {
      return [{ ...edge, endpoint: endpointOf(edge) }]
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
      sayOnce(`passed over: ${error.message}`)
      return []
    }
  }

  return {
    latest: () => latest,
    async edges() {
      if (now() < readAgainAt) return latest
      try {
        const found = (await readEdges(client, primary)).flatMap(known)
        if (found.length === 0)
          throw new StartError(
            `${primary.host} tells clients of no edges: name their hosts there, in primary.client_edges, and give each its external_url`,
          )
        latest = found
        readAgainAt = now() + keptMs
        said.clear()
      } catch (error) {
        if (latest.length === 0 || !(error instanceof StartError)) throw error
        readAgainAt = now() + retryMs
        sayOnce(`${error.message}; the edges that it named last go on counting`)
      }
      return latest
    },
    close: () => client.close(),
  }
}

async function readEdges(
  client: PrimaryClient,
  { host }: Endpoint,
): Promise<readonly ClientEdge[]> {
  const { status, body } = await client.ask(clientEdgesPath)
  if (status !== 200)
    throw new StartError(`${host} does not tell of its edges: it answers ${status}`)
  try {
    return parseClientEdges(parseJson(body.toString('utf8')))
  } catch (cause) {
    throw new StartError(`${host} does not tell of its edges as a primary does`, { cause })
  }
}
