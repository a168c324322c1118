import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { describe, test, type TestContext } from 'node:test'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import type { ListenerOptions } from '../../../shared/config/server-options.ts'
import { Watchdog, type Transfer } from '../../../shared/http/watchdog.ts'
import { makeCertificate } from '../../kit/certificates.ts'
import { waitFor } from '../../kit/clock.ts'
import { connectRaw, startHttpServer, type TestServer } from '../../kit/http-server.ts'
import { tempFolder } from '../../kit/temp.ts'

const limits = { idle: 60_000, minimum_rate: 512, minimum_rate_window: 120_000 }

/** A transfer whose bytes and turn are set by hand. */
class FakeTransfer implements Transfer {
  bytes = 0
  isClientsTurn = true
  reason: 'idle' | 'slow' | undefined
  movedBytes(): number {
    return this.bytes
  }
  awaitsClient(): boolean {
    return this.isClientsTurn
  }
  cut(reason: 'idle' | 'slow'): void {
    this.reason ??= reason
  }
}

/** Lets seconds pass, with so many bytes in each, looking every 5 s as the real one does. */
function pass(
  watchdog: Watchdog,
  transfer: FakeTransfer,
  { seconds, bytesPerSecond }: { readonly seconds: number; readonly bytesPerSecond: number },
): void {
  for (let second = 5; second <= seconds && transfer.reason === undefined; second += 5) {
    transfer.bytes += 5 * bytesPerSecond
    watchdog.look(5000)
  }
}

describe('the rules', () => {
  test('a transfer that stands still for the idle time is cut, and not before', () => {
    const transfer = new FakeTransfer()
    const watchdog = new Watchdog([transfer], limits)
    pass(watchdog, transfer, { seconds: 60, bytesPerSecond: 0 })
    assert.equal(transfer.reason, undefined)
    pass(watchdog, transfer, { seconds: 5, bytesPerSecond: 0 })
    assert.equal(transfer.reason, 'idle')
  })

  test('an upload of 1 KiB a second lives for as long as it likes', () => {
    const transfer = new FakeTransfer()
    const watchdog = new Watchdog([transfer], limits)
    pass(watchdog, transfer, { seconds: 3600, bytesPerSecond: 1024 })
    assert.equal(transfer.reason, undefined)
  })

  test('one byte a minute, which the idle rule lets through, is cut as slow', () => {
    const transfer = new FakeTransfer()
    const watchdog = new Watchdog([transfer], limits)
    for (let minute = 0; minute < 10 && transfer.reason === undefined; minute++) {
      transfer.bytes += 1
      for (let look = 0; look < 11; look++) watchdog.look(5000)
    }
    assert.equal(transfer.reason, 'slow')
  })

  test('a rate of 0 turns the rate rule off', () => {
    const transfer = new FakeTransfer()
    const watchdog = new Watchdog([transfer], { ...limits, minimum_rate: 0 })
    for (let minute = 0; minute < 60; minute++) {
      transfer.bytes += 1
      for (let look = 0; look < 11; look++) watchdog.look(5000)
    }
    assert.equal(transfer.reason, undefined)
  })

  test('a client that waits for us is never cut', () => {
    const transfer = new FakeTransfer()
    transfer.isClientsTurn = false
    const watchdog = new Watchdog([transfer], limits)
    pass(watchdog, transfer, { seconds: 3600, bytesPerSecond: 0 })
    assert.equal(transfer.reason, undefined)
  })

  test('whoever moves at least the minimum in every look is never cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 512, max: 100_000 }), fc.boolean()), {
          maxLength: 200,
        }),
        (looks) => {
          const transfer = new FakeTransfer()
          const watchdog = new Watchdog([transfer], limits)
          for (const [rate, isClientsTurn] of looks) {
            transfer.isClientsTurn = isClientsTurn
            transfer.bytes += rate * 5
            watchdog.look(5000)
          }
          assert.equal(transfer.reason, undefined)
        },
      ),
    )
  })
})

const quick = { idle: 600, minimum_rate: 0, headers: 5000 }

async function startTransferServer(
  test: TestContext,
  timeouts: object,
  listener: ListenerOptions = { address: '127.0.0.1', port: 0 },
): Promise<TestServer> {
  return startHttpServer(test, {
    listener,
    timeouts,
    routes: (app) => {
      app.put('/upload', async ({ raw }) => {
        let bytes = 0
        for await (const chunk of raw) bytes += (chunk as Buffer).length
        return { bytes }
      })
      app.put('/busy', async ({ raw }) => {
        // As slow as a full disk: takes its time before it reads what has come.
        await delay(1500)
        let bytes = 0
        for await (const chunk of raw) bytes += (chunk as Buffer).length
        return { bytes }
      })
      app.get('/thinking', async () => {
        await delay(1500)
        return { thought: true }
      })
      app.get('/download', (_request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200, { 'Content-Length': 64 * 2 ** 20 })
        reply.raw.end(Buffer.alloc(64 * 2 ** 20))
      })
    },
  })
}

function cutOf({ lines }: TestServer): unknown {
  return lines.find(({ msg }) => msg === 'request')?.cut
}

describe('over real sockets', { concurrency: true }, () => {
  test('an upload that stands still is closed, and the log says why', async (t) => {
    const server = await startTransferServer(t, quick)
    const connection = await connectRaw(t, server.port)
    connection.send('PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf')
    assert.equal(await connection.closed(), '')
    assert.equal(await waitFor('the line', () => cutOf(server)), 'idle')
  })

  test('an upload that trickles lives far beyond the idle time', async (t) => {
    const server = await startTransferServer(t, quick)
    const connection = await connectRaw(t, server.port)
    connection.send('PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n')
    for (let sent = 0; sent < 20; sent++) {
      await delay(100)
      connection.send('x')
    }
    assert.match(await connection.until(/\}$/), /\{"bytes":20\}$/)
  })

  test('an upload below the minimum rate is closed although it moves', async (t) => {
    const server = await startTransferServer(t, {
      ...quick,
      minimum_rate: 1000,
      minimum_rate_window: 400,
    })
    const connection = await connectRaw(t, server.port)
    connection.send('PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n')
    const trickle = setInterval(() => connection.send('x'), 20)
    t.after(() => clearInterval(trickle))
    await connection.closed()
    assert.equal(await waitFor('the line', () => cutOf(server)), 'slow')
  })

  test('clients are not cut for what takes long here', async (t) => {
    const server = await startTransferServer(t, quick)
    const thinking = await fetch(new URL('/thinking', server.url))
    assert.deepEqual(await thinking.json(), { thought: true })
    const connection = await connectRaw(t, server.port)
    connection.send(`PUT /busy HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n`)
    connection.send(Buffer.alloc(200_000))
    assert.match(await connection.until(/\}$/), /\{"bytes":200000\}$/)
  })

  test('a download whose client stops reading is closed, and its response ends', async (t) => {
    const server = await startTransferServer(t, quick)
    const connection = await connectRaw(t, server.port)
    connection.socket.pause()
    connection.send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    assert.equal(await waitFor('the line', () => cutOf(server)), 'idle')
  })

  test('a download whose client sips is left alone, although one write of ours lasts longer than the idle time', async (t) => {
    const server = await startTransferServer(t, quick)
    const { socket, send } = await connectRaw(t, server.port)
    socket.pause()
    send('GET /download HTTP/1.1\r\nHost: h\r\n\r\n')
    await sip(socket)
    assert.equal(cutOf(server), undefined)
    assert.equal(socket.destroyed, false)
  })

  test('a download over TLS whose client sips is left alone too', async (t) => {
    const folder = await tempFolder(t)
    const { cert, key } = makeCertificate()
    await writeFile(join(folder, 'cert'), cert)
    await writeFile(join(folder, 'key'), key)
    const tls = { cert: join(folder, 'cert'), key: join(folder, 'key') }
    const server = await startTransferServer(t, quick, { address: '127.0.0.1', port: 0, tls })
    const outgoing = httpsRequest(new URL('/download', server.url), { ca: cert, agent: false })
    t.after(() => outgoing.destroy())
    outgoing.end()
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
    await sip(response)
    assert.equal(cutOf(server), undefined)
    assert.equal(response.destroyed, false)
  })
})

/** Reads a megabyte every tenth of a second, for three idle times: far less than the 64 MiB that are offered. */
async function sip(stream: Readable): Promise<void> {
  let thirst = 0
  stream.on('error', () => undefined)
  stream.on('data', (chunk: Buffer) => {
    thirst -= chunk.length
    if (thirst <= 0) stream.pause()
  })
  for (let round = 0; round < 21; round++) {
    thirst += 2 ** 20
    stream.resume()
    await delay(100)
  }
}
