import { readTextFile } from '../../../shared/files/text-file.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { adminOptions } from '../edges/options.ts'

/** Of commands that sign. */
export const rootOption = {
  type: 'string',
  multiple: true,
  value: 'FILE',
  help: "the root's file, as 'keys make-root' made it",
} as const

/** `outport keys sign` */
export const sign = defineCommand({
  name: 'keys sign',
  summary: 'sign the list of keys that waits, by a root that is kept offline, and hand it in',
  options: {
    ...adminOptions,
    root: rootOption,
    in: {
      type: 'string',
      value: 'FILE',
      help: "what 'keys pending --out' wrote: nothing is asked of a primary then",
    },
    out: { type: 'string', value: 'FILE', help: 'with --in: where the signed list is written' },
  },
  notes: `On a machine without a network: sign --root FILE --in PENDING --out SIGNED. 'outport keys submit SIGNED' hands it in.`,
  async run({ root: files, in: from, out: to, ...options }) {
    if (files.length === 0) throw new UsageError('keys sign needs --root FILE')
    if ((from === undefined) !== (to === undefined))
      throw new UsageError('--in and --out go together: without both, a primary is asked')
    const { readRootFile } = await import('./root-file.ts')
    const lists = await import('./pending-list.ts')
    const roots = await Promise.all(files.map(readRootFile))
    if (from !== undefined && to !== undefined) {
      const { writeFileAtomic } = await import('../../../shared/files/atomic-write.ts')
      const waiting = lists.parsePending(await readTextFile(from), from)
      process.stdout.write(lists.describePending(waiting))
      const signed = lists.signPending(waiting, roots)
      await writeFileAtomic(to, `${JSON.stringify(signed, undefined, 2)}\n`)
      return 0
    }
    const { withAdminApi } = await import('../../admin-api.ts')
    return withAdminApi(options, async (api) => {
      const waiting = await lists.fetchPending(api)
      if (waiting === undefined) throw new StartError('no list waits to be signed')
      if (!options.json) process.stdout.write(lists.describePending(waiting))
      await lists.submitPending(api, lists.signPending(waiting, roots))
      if (!options.json) process.stdout.write('The list is signed, and in force.\n')
      return 0
    })
  },
})
