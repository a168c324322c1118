import { Agent, get, type IncomingMessage } from 'node:http'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { createNear, type Near } from '../deploy/commands/hosts/near.ts'
import { createConsulClient } from '../shared/discovery/consul-client.ts'
import { watchMembers, type Members } from '../shared/discovery/members.ts'
import { keepRegistered } from '../shared/discovery/registration.ts'
import { serviceOf } from '../shared/discovery/service.ts'
import { createLogger } from '../shared/observability/log.ts'
import { distanceMs } from '../shared/site/nearness.ts'
import { waitFor } from '../test/kit/clock.ts'
import { edgeEntry, startFakeConsul, type FakeConsul } from '../test/kit/consul.ts'
import type { Bench, BenchContext } from './bench.ts'
import type { BenchResult, Figure } from './report.ts'
import { createPlaces, startFakeEdge, zones, type FakeEdge, type Machine } from './zones.ts'

const edgesOfZone = 50
const machinesOfZone = 3000
const blobBytes = 16 * 1024
const atOnce = 64
const flapsPerSecond = 50
const flapMs = 10_000
/** Each is passed three times in it. */
const ttlMs = 3000

/** Whom machines pull from by what Consul says: 200 edges in 4 zones, one of each dies, and Consul is busy. */
export const bench: Bench = {
  name: 'discovery',
  counts: true,
  async run(context) {
    const closers: (() => unknown)[] = []
    try {
      return await measure(context, (close) => closers.push(close))
    } finally {
      for (const close of closers.toReversed()) await close()
    }
  },
}

type After = (close: () => unknown) => void

/** A machine, and the edges that its client was told of. */
interface Puller {
  readonly machine: Machine
  readonly near: Near
  told: readonly FakeEdge[]
}

interface Zone {
  readonly consul: FakeConsul
  readonly members: Members
}

async function measure({ say }: BenchContext, after: After): Promise<BenchResult> {
  const places = createPlaces(8)
  const body = Buffer.alloc(blobBytes, 1)
  const edges: FakeEdge[] = []
  for (let zone = 0; zone < zones; zone++)
    for (let number = 0; number < edgesOfZone; number++) {
      const coordinate = places.coordinateIn(zone)
      const id = `e${zone}-${number}`
      edges.push(await startFakeEdge({ id, number: edges.length, zone, coordinate }, body))
    }
  after(() => Promise.all(edges.map((edge) => edge.stop())))
  const rogue = await startFakeEdge(
    { id: 'rogue', number: edges.length, zone: 0, coordinate: places.coordinateIn(0) },
    body,
  )
  after(() => rogue.stop())

  const agents: Zone[] = []
  for (let zone = 0; zone < zones; zone++)
    agents.push(await startAgent(zone, { edges, rogue, places, after }))
  const dead = new Set<string>()
  const pullers: Puller[] = []
  for (let number = 0; number < zones * machinesOfZone; number++) {
    const machine = places.machine(number, number % zones)
    const near = nearOf(machine, { edges, dead, members: agents[machine.zone]?.members })
    pullers.push({ machine, near, told: [] })
  }
  const agent = new Agent({ keepAlive: true, maxSockets: 2 })
  after(() => agent.destroy())
  const stand = { pullers, agent }
  const figures: Figure[] = []

  say(`${pullers.length} machines look, and pull`)
  await lookAll(pullers, edges)
  const first = await pullAll(stand)
  const name = `${edges.length} edges in ${zones} zones, ${pullers.length} machines`
  figures.push(
    {
      case: name,
      measure: 'bytes from within 1.5 × the nearest RTT',
      value: nearShare(first, edges),
      floor: 0.95,
      aim: 0.99,
    },
    {
      case: name,
      measure: 'load within a zone, max ÷ mean',
      value: Math.max(...loads(first)),
      floor: 1.5,
      aim: 1.4,
      most: true,
    },
  )

  say('one edge of each zone dies')
  for (const edge of mostUsed(first)) {
    dead.add(edge.url)
    await edge.stop()
  }
  const second = await pullAll(stand)
  const fewer = edges.filter(({ url }) => !dead.has(url))
  for (const { consul } of agents) consul.setEntries('outport-edge', entriesOf(fewer, rogue))
  await waitFor('the watches', () =>
    agents.every(({ members }) => members.list().length === fewer.length),
  )
  await lookAll(pullers, edges)
  const third = await pullAll(stand)
  figures.push(
    zero('the most used of each zone dies', 'pulls without an edge', without(second)),
    zero(
      'then Consul says so',
      'pulls whose first edge failed',
      third.filter(({ tries }) => tries > 1).length,
    ),
    {
      case: 'then Consul says so',
      measure: 'bytes from within 1.5 × the nearest RTT',
      value: nearShare(third, fewer),
      floor: 0.95,
      aim: 0.99,
    },
  )

  say('Consul is away')
  const toldOf = ({ told }: Puller) => told.map(({ id }) => id).join(' ')
  const before = pullers.map(toldOf)
  for (const { consul } of agents) consul.break('cut')
  await lookAll(pullers, edges)
  const changed = pullers.filter((puller, index) => toldOf(puller) !== before[index])
  for (const { consul } of agents) consul.break()
  figures.push(
    zero('Consul is away', 'machines that were told of others', changed.length),
    zero('an entry that is not in the roster', 'bodies', rogue.given()),
  )

  say('200 edges beat, and checks flap')
  figures.push(await measureWrites(edges, after), await measureWakes(agents))
  return { figures, rounds: '1' }
}

function zero(name: string, measure: string, value: number): Figure {
  return { case: name, measure, value, floor: 0, aim: 0, most: true }
}

/** Consul's agent of a zone, and the watch of who asks there. */
async function startAgent(
  zone: number,
  {
    edges,
    rogue,
    places,
    after,
  }: {
    readonly edges: readonly FakeEdge[]
    readonly rogue: FakeEdge
    readonly places: ReturnType<typeof createPlaces>
    readonly after: After
  },
): Promise<Zone> {
  const consul = await startFakeConsul({ after })
  consul.setCoordinates({
    ...Object.fromEntries(edges.map(({ node, coordinate }) => [node, coordinate] as const)),
    here: places.coordinateIn(zone),
  })
  consul.setEntries('outport-edge', entriesOf(edges, rogue))
  const client = await createConsulClient({ url: consul.url })
  after(() => client.close())
  const urls = new Map(edges.map(({ id, url }) => [id, url]))
  const members = watchMembers({
    client,
    roster: () => [...urls.keys()],
    urlOf: (id) => urls.get(id),
    log: createLogger({ level: 'error', write: () => undefined }),
  })
  after(() => members.close())
  await members.ready
  return { consul, members }
}

function entriesOf(edges: readonly FakeEdge[], rogue: FakeEdge): readonly unknown[] {
  return [...edges, rogue].map(({ id, node, url }) => edgeEntry(id, { node, meta: { url } }))
}

/** As `outport hosts --near` on that machine: its own coordinate, and what Consul says of the members. */
function nearOf(
  machine: Machine,
  {
    edges,
    dead,
    members,
  }: {
    readonly edges: readonly FakeEdge[]
    readonly dead: ReadonlySet<string>
    readonly members: Members | undefined
  },
): Near {
  const byId = new Map(edges.map((edge) => [edge.id, edge]))
  const byUrl = new Map(edges.map((edge) => [edge.url, edge]))
  const known = edges.map(({ id, url }) => {
    return { id, url, site: undefined, endpoint: { url, host: new URL(url).host } }
  })
  return createNear({
    edges: () => Promise.resolve(known),
    members: () =>
      (members?.list() ?? []).map((member) => {
        const there = byId.get(member.id)
        return { ...member, estimateMs: there && distanceMs(machine.coordinate, there.coordinate) }
      }),
    pings: {
      ping(url) {
        const edge = byUrl.get(url)
        return Promise.resolve(
          edge === undefined || dead.has(url) ? undefined : machine.rttMs(edge),
        )
      },
    },
    site: undefined,
    machine: machine.name,
  })
}

async function lookAll(pullers: readonly Puller[], edges: readonly FakeEdge[]): Promise<void> {
  const byUrl = new Map(edges.map((edge) => [edge.url, edge]))
  for (const puller of pullers)
    puller.told = (await puller.near.look()).flatMap(({ url }) => byUrl.get(url) ?? [])
}

/** What became of one machine's pull. */
interface Pull {
  readonly machine: Machine
  /** Undefined: no edge that it was told of gave it. */
  readonly edge: FakeEdge | undefined
  readonly bytes: number
  readonly tries: number
}

/** Each machine pulls once, from the first that gives it, as containerd does. */
async function pullAll({
  pullers,
  agent,
}: {
  readonly pullers: readonly Puller[]
  readonly agent: Agent
}): Promise<readonly Pull[]> {
  const pulls: Pull[] = []
  const left = pullers.values()
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      for (const puller of left) pulls.push(await pull(puller, agent))
    }),
  )
  return pulls
}

async function pull({ machine, told }: Puller, agent: Agent): Promise<Pull> {
  let tries = 0
  for (const edge of told) {
    tries++
    try {
      return { machine, edge, bytes: await download(edge.url, agent), tries }
    } catch {
      // The next one.
    }
  }
  return { machine, edge: undefined, bytes: 0, tries }
}

async function download(url: string, agent: Agent): Promise<number> {
  const [answer] = (await once(get(url, { agent }), 'response')) as [IncomingMessage]
  let bytes = 0
  for await (const chunk of answer) bytes += (chunk as Buffer).length
  if (bytes !== blobBytes) throw new Error(`${bytes} bytes came`)
  return bytes
}

const without = (pulls: readonly Pull[]) => pulls.filter(({ edge }) => edge === undefined).length

/** Of all bytes, by how long it really takes to who gave them. */
function nearShare(pulls: readonly Pull[], edges: readonly FakeEdge[]): number {
  let [near, all] = [0, 0]
  for (const { machine, edge, bytes } of pulls) {
    all += bytes
    if (edge === undefined) continue
    const nearestMs = Math.min(...edges.map((other) => machine.rttMs(other)))
    if (machine.rttMs(edge) <= 1.5 * nearestMs) near += bytes
  }
  return near / all
}

/** Pulls of each edge of a zone. */
function usesOf(pulls: readonly Pull[], zone: number): ReadonlyMap<FakeEdge, number> {
  const uses = new Map<FakeEdge, number>()
  for (const { edge } of pulls) if (edge?.zone === zone) uses.set(edge, (uses.get(edge) ?? 0) + 1)
  return uses
}

const allZones = Array.from({ length: zones }, (_, zone) => zone)

function loads(pulls: readonly Pull[]): readonly number[] {
  return allZones.map((zone) => {
    const uses = [...usesOf(pulls, zone).values()]
    const mean = uses.reduce((sum, count) => sum + count, 0) / edgesOfZone
    return Math.max(...uses) / mean
  })
}

function mostUsed(pulls: readonly Pull[]): readonly FakeEdge[] {
  return allZones.flatMap((zone) => {
    const [most] = [...usesOf(pulls, zone)].toSorted(([, one], [, other]) => other - one)
    return most === undefined ? [] : [most[0]]
  })
}

/** What Consul's servers have to write while all edges are well. */
async function measureWrites(edges: readonly FakeEdge[], after: After): Promise<Figure> {
  const consul = await startFakeConsul({ after })
  const client = await createConsulClient({ url: consul.url })
  after(() => client.close())
  const log = createLogger({ level: 'error', write: () => undefined })
  const registrations = edges.map(({ id, url }) =>
    keepRegistered({
      client,
      service: serviceOf('outport-edge', {
        ...{ id, url, version: '1', ttlMs, deregisterAfterMs: 60_000 },
      }),
      log,
    }),
  )
  const beats = () => consul.requests.filter(({ path }) => path.includes('/check/pass/')).length
  await waitFor('all edges', () => beats() >= 2 * edges.length)
  const [writes, from] = [consul.writes(), beats()]
  await waitFor('three beats each', () => beats() >= from + 3 * edges.length, { timeoutMs: 60_000 })
  const figure = zero(
    `${beats() - from} beats`,
    "writes at Consul's servers",
    consul.writes() - writes,
  )
  await Promise.all(registrations.map((registration) => registration.close()))
  return figure
}

/** How often a watch is woken by checks that are not of its edges. */
async function measureWakes(agents: readonly Zone[]): Promise<Figure> {
  const from = agents.map(({ consul }) => consul.requests.length)
  const startedAt = performance.now()
  let flaps = 0
  for (; performance.now() - startedAt < flapMs; flaps++) {
    for (const { consul } of agents) consul.flap()
    await delay(Math.max(0, startedAt + ((flaps + 1) * 1000) / flapsPerSecond - performance.now()))
  }
  const rates = agents.map(({ consul }, index) => {
    const at = consul.requests
      .slice(from[index])
      .filter(({ path }) => path.startsWith('/v1/health/'))
      .map((request) => request.at)
    return ((at.length - 1) * 1000) / ((at.at(-1) ?? NaN) - (at[0] ?? NaN))
  })
  return {
    case: `${Math.round((flaps * 1000) / flapMs)} flaps a second`,
    measure: 'wakes of a watch a second',
    value: Math.max(...rates),
    floor: 1,
    aim: 1,
    most: true,
  }
}
