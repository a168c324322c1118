// The smallest program that `up` can supervise: `stand-in.ts primary|edge` listens where its configuration
// says and answers with its pid. STAND_IN_FAIL names the program that cannot start, STAND_IN_DIE the one that ends
// after it said that it is ready, STAND_IN_SLOW the one whose start waits until it is broken off, STAND_IN_BREAK the one that fails when it stops.
import { once } from 'node:events'
import { appendFileSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { StartProgram } from '../../deploy/programs.ts'
import { runSupervised } from '../../deploy/run-supervised.ts'

const start: StartProgram = async (name, config, { signal }) => {
  const options = config[name]
  const journal = (line: string) =>
    appendFileSync(join(config.data, 'journal'), `${name} ${line}\n`)
  journal(`environ ${readFileSync('/proc/self/environ', 'utf8').includes('Planted-Secret-1')}`)
  if (process.env['STAND_IN_FAIL'] === name) throw new Error('the stand-in\ncannot start')
  if (process.env['STAND_IN_SLOW'] === name) {
    journal('starting')
    await once(signal, 'abort')
    journal('broken off')
    signal.throwIfAborted()
  }
  const listen = async (port: number) => {
    const server = createServer((_request, response) => response.end(String(process.pid)))
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
  }
  const listeners = await Promise.all(options.listeners.map(({ port }) => listen(port)))
  const metrics = await listen(options.metrics.port)
  journal('started')
  if (name === 'edge') journal(`primary ${config.edge.primary.url}`)
  if (process.env['STAND_IN_DIE'] === name) setTimeout(() => process.exit(3), 20)
  return {
    urls: Object.fromEntries(listeners.map(({ url }, index) => [`listener${index}`, url])),
    metrics: metrics.url,
    async stop(deadlineMs) {
      appendFileSync(join(config.data, 'deadlines'), `${deadlineMs}\n`)
      for (const { server } of [...listeners, metrics]) {
        server.closeAllConnections()
        server.close()
      }
      journal('stopped')
      if (process.env['STAND_IN_BREAK'] === name) throw new Error('the stand-in cannot stop')
    },
  }
}

runSupervised(process.argv[2] === 'edge' ? 'edge' : 'primary', start)
