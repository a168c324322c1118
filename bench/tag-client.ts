import { connect, type Socket } from 'node:net'
import { acceptedTypes } from './registry.ts'

/** Asks one server for one tag, again and again, over a connection of its own, as cheaply as Node can. */
export interface TagClient {
  /** @returns the digest that the tag names; undefined when it was not answered. One question at a time. */
  ask(): Promise<string | undefined>
  close(): void
}

export interface TagClientOptions {
  readonly origin: URL
  readonly path: string
  /** Asked for at first, and when what it gave is not taken any more. */
  readonly authorize: () => Promise<string | undefined>
}

const headEnd = '\r\n\r\n'

export function createTagClient({ origin, path, authorize }: TagClientOptions): TagClient {
  let socket: Socket | undefined
  let authorization: string | undefined
  let answered: ((head: string | undefined) => void) | undefined
  let text = ''

  const settle = (head: string | undefined): void => {
    answered?.(head)
    answered = undefined
  }
  const open = (): Socket => {
    const opened = connect(Number(origin.port), origin.hostname)
    opened.setNoDelay(true).setEncoding('latin1')
    text = ''
    opened.on('data', (bytes: string) => {
      text += bytes
      if (!text.endsWith(headEnd)) return
      const head = text
      text = ''
      settle(head)
    })
    opened.on('error', () => undefined)
    opened.on('close', () => {
      if (socket === opened) socket = undefined
      settle(undefined)
    })
    return opened
  }
  const head = (): Promise<string | undefined> =>
    new Promise((resolve) => {
      answered = resolve
      socket ??= open()
      const login = authorization === undefined ? '' : `Authorization: ${authorization}\r\n`
      socket.write(
        `HEAD ${path} HTTP/1.1\r\nHost: ${origin.host}\r\nAccept: ${acceptedTypes}\r\n${login}\r\n`,
      )
    })
  return {
    async ask() {
      // Who gets no token now is answered 401, and asks for one again.
      authorization ??= await authorize().catch(() => undefined)
      const answer = await head()
      if (answer?.startsWith('HTTP/1.1 401') === true) authorization = undefined
      if (answer?.startsWith('HTTP/1.1 200') !== true) return undefined
      return /\r\ndocker-content-digest: (\S+)/i.exec(answer)?.[1]
    },
    close: () => socket?.destroy(),
  }
}
