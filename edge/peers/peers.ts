import type { Digest } from '../../shared/oci/digest.ts'
import { isRepositoryName } from '../../shared/oci/reference.ts'
import { covers, takesRequests, type RosterEdge } from '../../shared/replication/events.ts'
import { createHomes, type Homes } from '../../shared/site/home.ts'
import { edgeCertificateName } from '../../shared/trust/edge-certificate.ts'
import type { ChooseProxy } from '../../shared/http/proxy.ts'
import { createUpstreamClient, type UpstreamTimeouts } from '../../shared/upstream/client.ts'
import type { UpstreamClient } from '../../shared/upstream/fetch.ts'
import { createRegistries } from '../../shared/upstream/registries.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { Statements } from '../cache/statements.ts'
import type { OwnIdentity } from '../replication/identity.ts'
import { createPeerChoice, type PeerChoiceOptions } from './choice.ts'
import type { MirrorOfRepository, Sharer } from '../sources/sources.ts'

/** The other edges of this one's site: the site is one cache. */
export interface Peers {
  /** Who is asked for a digest before its upstream, best first; none where this edge is its home. */
  of(origin: Origin, digest: Digest): readonly MirrorOfRepository[]
  /** Who is asked for what the site does not have, before its upstream: the parent, if there is one that may have it. */
  above(origin: Origin): readonly MirrorOfRepository[]
  /** Those of these ids that are of the site and may have what is of this origin: whoever named them may be wrong. */
  named(origin: Origin, ids: readonly string[]): readonly MirrorOfRepository[]
  /**
   * Who of the site is asked for what begins with a piece of a blob, its home first.
   * @returns undefined where nobody else is
   */
  homesOf(origin: Origin, digest: Digest): ((piece: number) => readonly Sharer[]) | undefined
  /** Those of the site that fetch a blob too, as all of them order them. */
  sharers(
    origin: Origin,
    digest: Digest,
    isSharer: (edge: RosterEdge) => boolean,
  ): readonly Sharer[]
  /** Edges of the site, this one included if it gives others anything; 0 without a site. */
  readonly members: number
  /** Whether a source is one of them, for its lane. */
  isPeer(source: string): boolean
  /** The ids of all edges that the primary lists and has not suspended, of other sites too. */
  listed(): readonly string[]
  /** The roster says something else. */
  changed(): void
  close(): Promise<void>
}

export interface PeersDeps extends Pick<PeerChoiceOptions, 'healthy'> {
  readonly edgeId: string
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
  readonly statements: Pick<Statements, 'edge' | 'edges'>
  /** Whether an upstream's content may be read by everybody who reaches a listener. */
  readonly isOpen: (upstream: string) => boolean
  /** Of another site, nearer to the upstream. Its URL may be in the roster. */
  readonly parent?: { readonly id: string; readonly url?: string | undefined } | undefined
  readonly identity: () => OwnIdentity | undefined
  /** Milliseconds that one may send nothing. */
  readonly waitMs: number
  readonly chooseProxy: ChooseProxy
  readonly timeouts: UpstreamTimeouts
  readonly onBytes: (count: number) => void
}

/** Of those that a busy home names. */
const tried = 3
const prefix = 'peer.'

interface Member {
  readonly id: string
  readonly edge: RosterEdge
}

/**
 * All members of a site agree, without asking each other, who is the home of a digest: whoever misses it asks there,
 * and the home asks the upstream. A peer that is away, slow or lying costs its patience once, and nothing else.
 */
export function createPeers(deps: PeersDeps): Peers {
  const { edgeId, upstream, statements, isOpen, parent, identity, waitMs } = deps
  const clients = new Map<
    string,
    { readonly url: string; readonly own: OwnIdentity; readonly client: UpstreamClient }
  >()
  let homes: Homes<Member> | undefined
  const choice = createPeerChoice(deps.healthy && { healthy: deps.healthy })
  let members: readonly Member[] = []
  let listed: readonly string[] = []
  let reading: Promise<void> | undefined
  let closed = false

  const read = async (): Promise<void> => {
    const me = statements.edge(edgeId)
    const all = (await statements.edges()).filter(takesRequests)
    listed = all.map((edge) => edge.edgeId)
    members = all
      .filter(
        ({ site, peerUrl = '' }) =>
          // What an edge says of itself is not always an address.
          me !== undefined && me.site !== '' && site === me.site && URL.canParse(peerUrl),
      )
      .map((edge) => ({ id: edge.edgeId, edge }))
    homes = createHomes(members)
  }

  const clientOf = (id: string, peerUrl: string): UpstreamClient | undefined => {
    const known = clients.get(id)
    const own = identity()
    if (known?.url === peerUrl && isSame(known.own, own)) return known.client
    if (own === undefined || closed) return undefined
    void known?.client.close()
    const [entry] = createRegistries([
      {
        id: `${prefix}${id}`,
        url: new URL(peerUrl),
        ca: own.ca.join('\n'),
        clientCertificate: { cert: own.certificate, key: own.key },
        servername: edgeCertificateName(id),
      },
    ]).entries
    if (entry === undefined) return undefined
    const client = createUpstreamClient({
      entry,
      chooseProxy: deps.chooseProxy,
      timeouts: deps.timeouts,
      observer: { onBytes: deps.onBytes },
    })
    clients.set(id, { url: peerUrl, own, client })
    return client
  }

  /** Whether an edge may have what is of this origin: only who may read it fetches it for others. */
  const mayHave = ({ upstream: of, project }: Origin, edge: RosterEdge): boolean =>
    takesRequests(edge) &&
    (of === upstream ? project !== undefined && covers(edge.scope, project) : isOpen(of))

  const asSource = (origin: Origin, id: string, url: string): readonly MirrorOfRepository[] => {
    const client = clientOf(id, url)
    const repository = `${origin.upstream}/${origin.repository}`
    return client === undefined || !isRepositoryName(repository)
      ? []
      : [{ client: choice.watched(id, client), repository, waitMs, edge: id }]
  }

  /** Whether somebody is worth a try, and may have what is of this origin; this edge itself counts. */
  const mayBeAsked = (origin: Origin): ((member: Member) => boolean) => {
    const others = members.filter(({ id }) => id !== edgeId)
    const reachable = new Set(choice.reachable(others).map(({ id }) => id)).add(edgeId)
    return ({ id, edge }) => reachable.has(id) && mayHave(origin, edge)
  }

  return {
    of(origin, digest) {
      if (homes === undefined) return []
      const ranked = homes.rank({ digest }).filter(mayBeAsked(origin))
      const mine = ranked.findIndex(({ id }) => id === edgeId)
      const before = choice.order(mine === -1 ? ranked : ranked.slice(0, mine))
      return before.flatMap(({ id, edge }) => asSource(origin, id, edge.peerUrl ?? ''))
    },
    named(origin, ids) {
      const found = members.filter(({ id, edge }) => ids.includes(id) && mayHave(origin, edge))
      return found
        .filter(({ id }) => id !== edgeId)
        .sort((one, other) => ids.indexOf(one.id) - ids.indexOf(other.id))
        .slice(0, tried)
        .flatMap(({ id, edge }) => asSource(origin, id, edge.peerUrl ?? ''))
    },
    homesOf(origin, digest) {
      const ranking = homes
      const able = members
        .filter(mayBeAsked(origin))
        .flatMap(({ id, edge }): [string, Sharer][] => {
          if (id === edgeId) return [[id, 'me']]
          return asSource(origin, id, edge.peerUrl ?? '').map((source) => [id, source])
        })
      if (ranking === undefined || able.every(([id]) => id === edgeId)) return undefined
      const byId = new Map(able)
      return (piece) => ranking.rank({ digest, piece }).flatMap(({ id }) => byId.get(id) ?? [])
    },
    sharers(origin, digest, isSharer) {
      const ranked = homes?.rank({ digest }) ?? []
      return ranked
        .filter(({ edge }) => mayHave(origin, edge) && isSharer(edge))
        .flatMap(({ id, edge }): readonly Sharer[] =>
          id === edgeId ? ['me'] : asSource(origin, id, edge.peerUrl ?? ''),
        )
    },
    above(origin) {
      const edge = parent && statements.edge(parent.id)
      if (parent === undefined || edge === undefined || !mayHave(origin, edge)) return []
      const url = parent.url ?? edge.peerUrl ?? ''
      return URL.canParse(url) ? asSource(origin, parent.id, url) : []
    },
    get members() {
      return members.length
    },
    listed: () => listed,
    isPeer: (source) => source.startsWith(prefix),
    changed() {
      reading = (reading ?? Promise.resolve()).then(read).catch(() => {
        // The disk is ill: the next change looks again, and the upstream has everything.
      })
    },
    async close() {
      closed = true
      await reading
      await Promise.all([...clients.values()].map(({ client }) => client.close()))
    },
  }
}

/** Whether a peer would be shown the same, and believed by the same. */
function isSame(one: OwnIdentity, other: OwnIdentity | undefined): boolean {
  return one.certificate === other?.certificate && one.ca.join('') === other.ca.join('')
}
