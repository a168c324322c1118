import { keepCompiled } from '../../deploy/compile-cache.ts'

// Only a process that keeps nothing compiled yet can begin to.
keepCompiled(process.argv[2] ?? '')
