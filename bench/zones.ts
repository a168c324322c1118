import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { distanceMs, type Coordinate } from '../shared/site/nearness.ts'
import { createRandom } from '../test/kit/random.ts'

/** An edge that does nothing but give bytes. */
export interface FakeEdge {
  readonly id: string
  readonly number: number
  readonly zone: number
  /** Its node in Consul. */
  readonly node: string
  readonly url: string
  readonly coordinate: Coordinate
  /** Bodies that it gave. */
  readonly given: () => number
  stop(): Promise<void>
}

/** A machine that pulls. */
export interface Machine {
  readonly name: string
  readonly zone: number
  readonly coordinate: Coordinate
  /** How long it really takes to an edge, which the coordinates know about. */
  rttMs(edge: FakeEdge): number
}

/** Where the zones are, in seconds: 20 to 80 ms apart. */
const centres = [
  [0, 0],
  [0.02, 0],
  [0, 0.05],
  [0.06, 0.05],
] as const
/** The way from a machine to its network, and how far machines of a zone are apart, in seconds. */
const heightS = 0.002
const radiusS = 0.0012
/** By how much the coordinates are off. */
const noise = 0.05

export const zones = centres.length

/** Nodes of Consul and the machines beside them, the same in each run. */
export function createPlaces(seed: number) {
  const { next: random } = createRandom(seed)
  const coordinateIn = (zone: number): Coordinate => {
    const [x, y] = centres[zone] ?? [0, 0]
    const angle = random() * 2 * Math.PI
    const far = Math.sqrt(random()) * radiusS
    return {
      vec: [x + far * Math.cos(angle), y + far * Math.sin(angle)],
      height: heightS,
      adjustment: 0,
      error: 0.1,
    }
  }
  return {
    coordinateIn,
    machine(number: number, zone: number): Machine {
      const coordinate = coordinateIn(zone)
      return {
        name: `machine-${number}`,
        zone,
        coordinate,
        rttMs(edge) {
          const off = createRandom(number * 1000 + edge.number).next()
          const distance = distanceMs(coordinate, edge.coordinate) ?? Infinity
          return distance * (1 + (2 * off - 1) * noise)
        },
      }
    },
  }
}

export async function startFakeEdge(
  { id, number, zone, coordinate }: Pick<FakeEdge, 'id' | 'number' | 'zone' | 'coordinate'>,
  body: Buffer,
): Promise<FakeEdge> {
  let given = 0
  const server: Server = createServer((_request, response) => {
    response.end(body)
    given++
  })
  // A connection that is closed just when a pull takes it would be no edge's failure.
  server.keepAliveTimeout = 600_000
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    ...{ id, number, zone, coordinate },
    node: `node-${id}`,
    url: `http://127.0.0.1:${port}`,
    given: () => given,
    async stop() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}
