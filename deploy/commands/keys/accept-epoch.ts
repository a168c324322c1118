import { isRecord } from '../../../shared/config/record.ts'
import { readTextFile } from '../../../shared/files/text-file.ts'
import type { AdminApi } from '../../admin-api.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { printAnswer } from '../edges/change.ts'
import { adminOptions } from '../edges/options.ts'
import { rootOption } from './sign.ts'

/** `outport keys accept-epoch` */
export const acceptEpoch = defineCommand({
  name: 'keys accept-epoch',
  summary: 'have the log go on after its database was restored: edges take it as it is now',
  options: {
    ...adminOptions,
    force: { type: 'boolean', help: 'also where the primary sees nothing wrong' },
    root: { ...rootOption, help: 'the file of a root that is kept offline, which announces it' },
    list: {
      type: 'string',
      value: 'SIGNED',
      help: "else what 'keys pending --next-epoch' wrote and 'keys sign' signed elsewhere",
    },
  },
  async run({ root: files, list: path, ...options }) {
    if (files.length > 0 && path !== undefined)
      throw new UsageError('--root and --list exclude each other')
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const list = path === undefined ? await signNow(api, files) : await readSigned(path)
      const { text, json } = await api.call('/keys/epoch', {
        method: 'POST',
        body: { ...(options.force && { force: true }), ...(list && { list }) },
        absent: 'this primary has no log: check that --primary is an Outport primary',
      })
      const epoch = isRecord(json) ? Number(json['epoch']) : NaN
      printAnswer(text, { json: options.json, done: `The log goes on in epoch ${epoch}.` })
      return 0
    })
  },
})

/** Undefined where the root lies with the primary, which signs by itself. */
async function signNow(api: AdminApi, files: readonly string[]) {
  if (files.length === 0) return undefined
  const { readRootFile } = await import('./root-file.ts')
  const { fetchPending, signedList, signPending } = await import('./pending-list.ts')
  const roots = await Promise.all(files.map(readRootFile))
  const waiting = await fetchPending(api, { nextEpoch: true })
  return waiting && signedList(signPending(waiting, roots))
}

async function readSigned(path: string) {
  const { parsePending, signedList } = await import('./pending-list.ts')
  return signedList(parsePending(await readTextFile(path), path))
}
