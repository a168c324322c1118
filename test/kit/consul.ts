import {
  createServer as createHttpServer,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import type { Coordinate } from '../../shared/site/nearness.ts'
import type { TestCertificate } from './certificates.ts'

/** An agent of Consul with the dozen routes that we use, on a free port, which lies as it is told to. */
export interface FakeConsul {
  readonly url: URL
  /** What came in, in order. */
  readonly requests: readonly ConsulRequest[]
  /** Services that were registered here, by id, with what their check says. */
  readonly services: ReadonlyMap<string, FakeService>
  /** What the servers would have had to write: services, and changes of a check's status or output. */
  readonly writes: () => number
  /** Entries of a service as others have them in the catalogue, besides what is registered here. */
  setEntries(service: string, entries: readonly unknown[]): void
  /** Moves the index without a change of what is watched, as a flapping check elsewhere does. */
  flap(): void
  setCoordinates(coordinates: Readonly<Record<string, Coordinate>>): void
  /** From now on the index is that; watches wake when it moves. */
  setIndex(index: number): void
  /** Headers of the watches' answers besides the index: `x-consul-knownleader`. */
  setHeaders(headers: Readonly<Record<string, string>>): void
  /** Every request is answered so, until it is called without. */
  break(fault?: { readonly status: number; readonly body?: string } | 'cut'): void
  /** The agent has lost everything that was registered here. */
  forget(): void
  /** Only requests with this token are answered otherwise than 403. */
  setToken(token: string): void
}

export interface ConsulRequest {
  readonly method: string
  /** Without the query. */
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly body: unknown
  readonly at: number
}

export interface FakeService {
  readonly registration: Readonly<Record<string, unknown>>
  status: string
  output: string
}

export interface FakeConsulOptions {
  readonly tls?: TestCertificate & { readonly clientCa?: string }
  readonly node?: string
}

/** Starts one; it ends with the test. */
export async function startFakeConsul(
  t: Pick<TestContext, 'after'>,
  { tls, node = 'here' }: FakeConsulOptions = {},
): Promise<FakeConsul> {
  const requests: ConsulRequest[] = []
  const services = new Map<string, FakeService>()
  const entries = new Map<string, readonly unknown[]>()
  const waiting = new Set<() => void>()
  let coordinates: Readonly<Record<string, Coordinate>> = {}
  let headers: Readonly<Record<string, string>> = {}
  let fault: { readonly status: number; readonly body?: string } | 'cut' | undefined
  let token: string | undefined
  let index = 10
  let writes = 0

  const wake = () => {
    for (const waiter of [...waiting]) waiter()
  }
  const move = (to = index + 1) => {
    index = to
    wake()
  }
  const wrote = () => {
    writes++
    move()
  }

  /** Until the index is above that of the question, or its time is over. */
  function moved(query: URLSearchParams, request: IncomingMessage): Promise<void> {
    const asked = Number(query.get('index') ?? 0)
    if (asked === 0 || index > asked) return Promise.resolve()
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(late)
        waiting.delete(done)
        resolve()
      }
      const late = setTimeout(done, Number.parseFloat(query.get('wait') ?? '60000ms'))
      waiting.add(done)
      request.socket.once('close', done)
    })
  }

  function entriesOf(service: string): readonly unknown[] {
    const own = [...services.values()]
      .filter(
        ({ registration, status }) => registration['Name'] === service && status === 'passing',
      )
      .map(({ registration }) => ({
        Node: { Node: node, Address: '127.0.0.1', Datacenter: 'dc1' },
        Service: { ...registration, Service: service },
        Checks: [],
      }))
    return [...own, ...(entries.get(service) ?? [])]
  }

  function update(checkId: string, status: string, output: string): number {
    const found = [...services.values()].find(({ registration }) => {
      const check = registration['Check'] as Readonly<Record<string, unknown>>
      return check['CheckID'] === checkId
    })
    // As Consul 1.8 has it.
    if (found === undefined) return 500
    if (found.status !== status || found.output !== output) {
      found.status = status
      found.output = output
      wrote()
    }
    return 200
  }

  function change({ path, query, body }: ConsulRequest): number {
    const [, what = '', id = ''] = /^\/v1\/agent\/(.*?)(?:\/([^/]+))?$/.exec(path) ?? []
    const note = query.get('note') ?? ''
    if (path === '/v1/agent/service/register') {
      const registration = body as Readonly<Record<string, unknown>>
      const { Status: status } = registration['Check'] as { readonly Status: string }
      services.set(String(registration['ID']), { registration, status, output: '' })
      wrote()
      return 200
    }
    if (what === 'service/deregister') {
      if (services.delete(decodeURIComponent(id))) wrote()
      return 200
    }
    if (what === 'check/pass') return update(decodeURIComponent(id), 'passing', note)
    if (what === 'check/fail') return update(decodeURIComponent(id), 'critical', note)
    return 404
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path, searchParams: query } = new URL(request.url ?? '', 'http://consul')
    const { method = '' } = request
    const text = Buffer.concat(await request.toArray()).toString('utf8')
    const body = text === '' ? undefined : (JSON.parse(text) as unknown)
    const asked = { method, path, query, headers: request.headers, body, at: performance.now() }
    requests.push(asked)
    const send = (status: number, sent: unknown, more: Readonly<Record<string, string>> = {}) => {
      response.writeHead(status, { 'content-type': 'application/json', ...more })
      response.end(typeof sent === 'string' ? sent : JSON.stringify(sent))
    }
    if (fault === 'cut') return void request.socket.destroy()
    if (fault !== undefined) return send(fault.status, fault.body ?? '')
    if (token !== undefined && request.headers['x-consul-token'] !== token)
      return send(403, 'Permission denied')
    if (method === 'PUT') return send(change(asked), '')
    if (path === '/v1/agent/self')
      return send(200, { Config: { NodeName: node, Datacenter: 'dc1' } })
    if (path === '/v1/coordinate/nodes') {
      const nodes = Object.entries(coordinates)
      return send(
        200,
        nodes.map(([Node, { vec, height, adjustment, error }]) => ({
          Node,
          Segment: '',
          Coord: { Vec: vec, Height: height, Adjustment: adjustment, Error: error },
        })),
      )
    }
    const [, service] = /^\/v1\/health\/service\/([^/]+)$/.exec(path) ?? []
    if (service === undefined) return send(404, '')
    await moved(query, request)
    if (fault !== undefined) return void request.socket.destroy()
    const meta = { 'x-consul-lastcontact': '0', 'x-consul-knownleader': 'true', ...headers }
    send(200, entriesOf(service), { 'x-consul-index': String(index), ...meta })
  }

  const listener = (request: IncomingMessage, response: ServerResponse) => {
    answer(request, response).catch(() => request.socket.destroy())
  }
  const server =
    tls === undefined
      ? createHttpServer(listener)
      : createHttpsServer(
          {
            cert: tls.cert,
            key: tls.key,
            ...(tls.clientCa !== undefined && {
              ca: tls.clientCa,
              requestCert: true,
              rejectUnauthorized: true,
            }),
          },
          listener,
        )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => {
    server.close()
    wake()
    server.closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  return {
    url: new URL(`${tls === undefined ? 'http' : 'https'}://127.0.0.1:${port}`),
    requests,
    services,
    writes: () => writes,
    setEntries(service, written) {
      entries.set(service, written)
      move()
    },
    flap: () => move(),
    setCoordinates(given) {
      coordinates = given
    },
    setIndex: move,
    setHeaders(given) {
      headers = given
    },
    break(given) {
      fault = given
      wake()
    },
    forget: () => services.clear(),
    setToken(given) {
      token = given
    },
  }
}

/** An entry of the catalogue as an edge makes it, with other meta where a test wants that. */
export function edgeEntry(
  id: string,
  {
    node = `node-${id}`,
    meta = {},
  }: { node?: string; meta?: Readonly<Record<string, unknown>> } = {},
): unknown {
  return {
    Node: { Node: node, Address: '10.0.0.1', Datacenter: 'dc1' },
    Service: {
      ID: `outport-edge-${id}`,
      Service: 'outport-edge',
      Address: `${id}.example.com`,
      Port: 443,
      Meta: { id, url: `https://${id}.example.com`, version: '1.0.0', ...meta },
    },
    Checks: [],
  }
}
